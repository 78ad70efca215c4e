"""`click`: binary cross-entropy of a stage's label on exposed candidates."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from corank.batch import Batch
from corank.losses.term import Logits, Scope, Term
from corank.sampling import Population


class Click(Term):
    """L = Σ w·BCE(z, y) / Σ w over exposed candidates with a known label; w is the log's `weight`."""

    kind: Literal["click"]
    stage: str
    label: str = "click"

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.label}"

    @property
    def learner(self) -> str:
        return self.stage

    def check(self, scope: Scope, key: str) -> None:
        scope.check(self.stage, self.label, f"{key}.stage")

    def population(self, scope: Scope) -> Population:
        return {len(scope.levels) - 1: None}

    def values(self, logits: Logits, batch: Batch, scope: Scope) -> tuple[Tensor, Tensor]:
        target = batch.labels[self.label].clamp_min(0)
        values = binary_cross_entropy_with_logits(logits[self.stage][self.label], target, reduction="none")
        return values, batch.known(self.label)
