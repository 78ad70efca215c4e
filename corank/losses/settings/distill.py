"""Loss `distill`: a student learns the detached scores of a teacher, another stage or what production logged."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from annotated_types import Ge
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from corank.batches.sampling import Population, SplitCounts, Targets
from corank.losses.base import LOSSES, FunnelSpec, Loss

if TYPE_CHECKING:
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput


@LOSSES.register("distill")
class DistillLoss(Loss):
    """Knowledge distillation over candidates of the levels `on`, or drawn beyond the log.

    z_s and z_t are the logits of student and teacher over the temperature, the teacher's detached.

    `pointwise`: L = mean of BCE(z_s, σ(z_t)). Source: Hinton et al., arXiv 1503.02531, for a binary label.

    `listwise`: L = KL(softmax z_t ‖ softmax z_s) of each request's list. Source: Cao et al., ListNet, ICML 2007.

    `pairwise`: the teacher's order of a request is cut into `chunks`, and a candidate drawn of each, again in each
    epoch; L = Σ w_ab softplus(z_s[b] − z_s[a]) / Σ w_ab over the drawn, a of an earlier chunk than b. w_ab is what
    DCG loses if the two swap ranks; the gain falls by 1 a chunk. Source of the idea: COPR, arXiv 2306.03516.

    A teacher has not learnt from candidates that were never exposed: choose `on` with care. It scores a drawn candidate
    as it would a logged one, and no candidate that no loss reads of it. A number that the log holds of pairs is missing
    there, and read as its mean; a teacher that reads other such features, or logged scores, is refused.
    """

    kind: Literal["distill"] = "distill"
    teacher: str
    """A stage, one of `teachers` or `tree_teachers`, or a logged score of `data.scores`."""
    student: str
    """The stage to train."""
    label: str = "click"
    """Which logits of both."""
    form: Literal["pointwise", "listwise", "pairwise"] = "pointwise"
    """What of the teacher is a target: its probability, its softmax over a request, or its order."""
    on: list[str] = Field(min_length=1)
    """Levels of the log, or `batch` or `catalogue` for items beyond it."""
    per_request: PositiveInt | None = None
    """Candidates drawn of each level and request; all of a level unless given."""
    chunks: Annotated[int, Ge(2)] = 20
    """Chunks of the teacher's order in `pairwise`."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of both."""
    warm_up: NonNegativeInt = 0
    """Optimiser steps over which the weight grows from 0, since an untrained teacher's scores are noise."""

    @model_validator(mode="after")
    def _check_two_stages(self) -> Self:
        if self.teacher == self.student:
            raise ValueError(f"teacher and student must be two stages; received '{self.teacher}' for both")
        return self

    @property
    def name(self) -> str:
        return f"{self.student}.distill"

    @property
    def learner(self) -> str:
        return self.student

    @property
    def teachers(self) -> list[str]:
        return [self.teacher]

    @property
    def warm_up_steps(self) -> int:
        return self.warm_up

    def soft_targets(self, funnel: FunnelSpec) -> set[int]:
        return set(self.population(funnel))

    def reads(self, funnel: FunnelSpec) -> list[str]:
        return [self.student] if self.teacher in funnel.scores else [self.student, self.teacher]

    def check(self, funnel: FunnelSpec, key: str) -> None:
        funnel.check_teacher(self.teacher, self.label, f"{key}.teacher")
        funnel.check_label(self.student, self.label, f"{key}.student")
        funnel.check_sources(self.on, self.per_request, key, "on")
        funnel.check_teaching(self.teachers, self.on, key)

    def population(self, funnel: FunnelSpec) -> Population:
        return {funnel.source_code(level, "on"): self.per_request for level in self.on}

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        rows = counts.rows(self.population(funnel))
        scored = counts.scores.get(self.teacher)
        if scored is not None:
            rows = min(rows, sum(scored[level] for level in self.population(funnel)))
        return Targets(rows, rows, rows)

    def values(
        self, outputs: "Mapping[str, StageOutput]", batch: "Batch", funnel: FunnelSpec
    ) -> "tuple[Tensor, Tensor]":
        from corank.losses.distillation.distill import distill_values

        return distill_values(self, outputs, batch, funnel)
