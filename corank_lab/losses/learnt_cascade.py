"""Loss `learnt_cascade`: losses of the cut of every stage whose parts have weights that are learnt.

Letters: R requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from corank.core.lazy import lazy
from corank.losses.base import LOSSES, FunnelSpec
from corank.losses.cascade import FunnelLoss, StageLists, Survival
from corank_lab.losses.arf import missed_top

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from corank.batches.batch import Batch
    from corank.models.stage_io import StageOutput
else:
    torch = lazy("torch")


@LOSSES.register("learnt_cascade")
class LearntCascadeLoss(FunnelLoss):
    """Forms of the losses `cascade` and `arf` with a learnt weight 1 / (2 σ_s²), as their authors train them.

    `lcron`: a stage's own term has the weight in place of ½. `arf_v2`: L_Global / n has it. `arf`: L_Global / n has it,
    and L_Relax is a mean over all n candidates, 0 where y = 0.

    Each weight adds log σ_s to the loss of a request, so that it tends to 1 / (2 L) of the part L that it weighs. It
    begins at ½. The number that is learnt, and reported during training, is log σ_s². Source: Kendall, Gal, Cipolla,
    Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    """

    kind: Literal["learnt_cascade"] = "learnt_cascade"
    form: Literal["lcron", "arf", "arf_v2"]
    """Which loss."""
    temperature: PositiveFloat = 1.0
    """τ: the sorting is sharper at lower ones."""

    @property
    def name(self) -> str:
        return f"learnt_cascade.{self.form}"

    def parameters(self, funnel: FunnelSpec) -> list[str]:
        return self.reads(funnel)

    def values(
        self, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
    ) -> tuple[Tensor, Tensor]:
        return self.sum_stages(outputs, batch, funnel, self._of_stage)

    def _of_stage(self, cut: StageLists) -> tuple[Tensor, Survival | None]:
        log_variance, relaxed = cut.output.loss_parameters[self.name], cut.sort(self.temperature)
        if self.form == "lcron":
            survival = Survival(*relaxed.survival())
            return _weigh(survival.cross_entropy(cut.true, cut.lists), log_variance), survival
        count = cut.lists.size.clamp_min(1)
        order = cut.order_loss(relaxed)
        if self.form == "arf_v2":
            relax = Survival(*relaxed.survival()).cross_entropy(cut.true, cut.lists)
        else:
            relax = missed_top(cut, relaxed).sum(1) / count
        return relax + _weigh(order / count, log_variance), None


def _weigh(value: Tensor, log_variance: Tensor) -> Tensor:
    """A part of the loss times its learnt weight, and log σ, without which the weight would fall to 0."""
    return 0.5 * (-log_variance).exp() * value + 0.5 * log_variance
