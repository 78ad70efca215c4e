"""Loss `arf`: every stage learns the positives that its cut keeps, and the whole order by level.

Letters: R requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.cascade import FunnelLoss, StageLists
from corank.losses.soft_sort import NeuralSort

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("arf")
class ArfLoss(FunnelLoss):
    """L = Σ_s (L_Relax + L_Global) with fixed weights, in the letters of the loss `cascade`.

    L_Relax = −mean over y = 1 of log(Σ_{t ≤ q_s} P̂_s[t] / q_s), and L_Global is that of `arf_v2`, which took this one's
    place. Source: Wang et al., Adaptive Neural Ranking Framework, arXiv 2310.10462.
    """

    kind: Literal["arf"] = "arf"
    temperature: PositiveFloat = 1.0
    """τ: the sorting is sharper at lower ones."""

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        return self.sum_stages(outputs, batch, funnel, self._of_stage)

    def _of_stage(self, cut: StageLists) -> tuple[Tensor, None]:
        relaxed = cut.sort(self.temperature)
        order = cut.order_loss(relaxed)
        return missed_top(cut, relaxed).sum(1) / cut.true.sum(1).clamp_min(1) + order, None


def missed_top(cut: StageLists, relaxed: NeuralSort) -> Tensor:
    """−log(Σ_{t ≤ q} P̂[t] / q) of the candidates that should survive, 0 of others: (R, n)."""
    return -torch.where(cut.true, relaxed.top() - math.log(cut.keep), 0)
