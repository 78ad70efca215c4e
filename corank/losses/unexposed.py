"""`unexposed`: candidates that were not shown, as negatives of the pre-ranker (against sample selection bias)."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from corank.batches.batch import Batch
from corank.batches.sampling import SOURCES, Population
from corank.core.errors import ConfigError
from corank.losses.base import Scope, Term
from corank.models.stage_io import StageOutput


class Unexposed(Term):
    """L = mean of softplus(z) = BCE(z, 0) over candidates of the levels `from`, `per_request` drawn a request.

    Beside the levels of the log `from` may name `batch`, items of the batch's other requests, and `catalogue`, items
    of the training log: easy negatives, and the only ones where the log holds exposures alone.
    """

    kind: Literal["unexposed"]
    stage: str
    label: str = "click"
    levels: list[str] = Field(alias="from", min_length=1)
    per_request: PositiveInt | None = None
    """Candidates of each level and request; all of a level unless given."""

    @property
    def name(self) -> str:
        return f"{self.stage}.unexposed"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, scope: Scope, key: str) -> None:
        scope.check(self.stage, self.label, f"{key}.stage")
        for level in self.levels:
            if scope.source(level, f"{key}.from") in SOURCES.values() and self.per_request is None:
                raise ConfigError(
                    f"{key}.per_request: required, as '{level}' has no end; such as per_request: 5"
                )

    def zeros(self, scope: Scope) -> set[int]:
        return set(self.population(scope))

    def population(self, scope: Scope) -> Population:
        return {scope.source(level, "from"): self.per_request for level in self.levels}

    def values(self, outputs: Mapping[str, StageOutput], batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        return softplus(outputs[self.stage].logits[self.label]), batch.weight * batch.in_population(
            self.population(scope)
        )
