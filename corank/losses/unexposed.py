"""`unexposed`: candidates that a stage cut, as negatives of the pre-ranker (against sample selection bias)."""

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from corank.batch import Batch
from corank.losses.term import Logits, Scope, Term
from corank.sampling import Population


class Unexposed(Term):
    """L = mean of softplus(z) = BCE(z, 0) over candidates of the levels `from`, `per_request` drawn a request."""

    kind: Literal["unexposed"]
    stage: str
    label: str = "click"
    levels: list[str] = Field(alias="from", min_length=1)
    per_request: PositiveInt | None = None
    """Candidates of each level and request; all of them unless given."""

    @property
    def name(self) -> str:
        return f"{self.stage}.unexposed"

    def check(self, scope: Scope, key: str) -> None:
        scope.check(self.stage, self.label, f"{key}.stage")
        for level in self.levels:
            scope.level(level, f"{key}.from")

    def population(self, scope: Scope) -> Population:
        return {scope.levels.index(level): self.per_request for level in self.levels}

    def values(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        cut = batch.at([scope.levels.index(level) for level in self.levels])
        return softplus(logits[self.stage][self.label]), batch.weight * cut
