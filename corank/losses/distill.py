"""`distill`: the student stage learns the detached scores of a teacher, another stage or what production logged.

Letters: R requests · C candidates · n the longest list.
"""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from corank.batch import Batch
from corank.errors import ConfigError
from corank.losses.term import Logits, Scope, Term
from corank.sampling import Population


class Distill(Term):
    """Pointwise: L = mean of BCE(z_s / T, σ(sg(z_t) / T)) over candidates of the levels `on`.

    On candidates that were never exposed the teacher itself is out of distribution: choose `on` with care.
    Source: Hinton et al., arXiv 1503.02531, for a binary label.
    """

    kind: Literal["distill"]
    teacher: str
    """A stage, or one of the log's `data.scores`."""
    student: str
    label: str = "click"
    form: Literal["pointwise"] = "pointwise"
    on: list[str] = Field(min_length=1)
    per_request: PositiveInt | None = None
    """Candidates of each level and request; all of them unless given."""
    temperature: PositiveFloat = 1.0
    warm_up: NonNegativeInt = 0
    """Optimiser steps over which the weight grows from 0, since an untrained teacher has nothing to say."""

    @model_validator(mode="after")
    def _two_stages(self) -> Self:
        if self.teacher == self.student:
            raise ValueError(f"teacher and student must be two stages; received '{self.teacher}' for both")
        return self

    @property
    def name(self) -> str:
        return f"{self.student}.distill"

    @property
    def learner(self) -> str:
        return self.student

    def reads(self, scope: Scope) -> list[str]:
        return [self.student] if self.teacher in scope.scores else [self.student, self.teacher]

    def check(self, scope: Scope, key: str) -> None:
        if self.teacher not in scope.scores:
            if self.teacher not in scope.stages:
                known = [*scope.stages, *scope.scores]
                raise ConfigError(
                    f"{key}.teacher: no stage and no logged score (data.scores) is called '{self.teacher}'; "
                    f"there are {', '.join(known)}"
                )
            scope.check(self.teacher, self.label, f"{key}.teacher")
        scope.check(self.student, self.label, f"{key}.student")
        for level in self.on:
            scope.level(level, f"{key}.on")

    def population(self, scope: Scope) -> Population:
        return {scope.levels.index(level): self.per_request for level in self.on}

    def values(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        teacher, known = self.taught(logits, batch, scope)
        student = logits[self.student][self.label] / self.temperature
        target = (teacher / self.temperature).sigmoid()
        values = binary_cross_entropy_with_logits(student, target, reduction="none")
        return values, batch.weight * known

    def taught(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        """The teacher's logits, and whether a candidate is to learn from them: (C,), (C,) bool."""
        chosen = batch.sampled(self.population(scope))
        if self.teacher in scope.scores:
            scores = batch.scores[self.teacher]
            return scores.nan_to_num(), chosen & ~scores.isnan()
        return logits[self.teacher][self.label].detach(), chosen

    def factor(self, step: int) -> float:
        return self.weight * min(1.0, step / self.warm_up if self.warm_up else 1.0)
