"""Loss `click`: binary cross-entropy of a stage's label where it is known, with a learnt effect of the position."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from corank.batches.sampling import SplitCounts, Targets
from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec, StageLoss

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("click")
class ClickLoss(StageLoss):
    """Binary cross-entropy of a label: L = Σ w·BCE(z + b, y) / Σ w over candidates with a known label.

    w is the log's `weight`. b is the learnt effect of the candidate's position, 0 if none is logged. Serving
    leaves it out, so that z is the candidate's score at any position.
    """

    kind: Literal["click"] = "click"
    pointwise: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return f"{self.stage}.{self.label}"

    def needed_labels(self) -> Sequence[str]:
        return [self.label]

    def targets(self, counts: SplitCounts, funnel: FunnelSpec) -> Targets:
        label = counts.labels[self.label]
        return Targets(label.known, label.positives, label.negatives)

    def untrained_value(self, counts: SplitCounts, funnel: FunnelSpec, requests: int) -> float | None:
        """The entropy of the label: −p ln p − (1 − p) ln(1 − p), p its rate."""
        rate = counts.labels[self.label].rate
        if rate is None:
            return None
        return -sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        target = batch.labels[self.label].clamp_min(0)
        z = self.placed_logits(outputs)
        values = torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="none")
        return values, self.weights(batch, funnel)

    def weights(self, batch: Batch, funnel: FunnelSpec) -> Tensor:
        return batch.label_weight(self.label)
