"""Loss `cascade`: the candidates that matter must survive every stage of the funnel, so all stages learn together.

Letters: R requests · C candidates · n the longest list.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.cascades.icc import icc_values
from corank.losses.padded import FAR, PaddedLists
from corank.losses.settings.cascade import CascadeLoss
from corank.losses.soft_sort import NeuralSort, threshold
from corank.models.stage_io import StageOutput, loss_weight

MAX_CUT = 1 - 1e-6
"""Above this probability 1 − P is rounding error and gets no gradient."""
STAGE_WEIGHT = {"lcron": 0.5, "dftopk": 1.0}
"""Weight of a stage's own loss relative to that of the cascade, where it is not learnt."""
SORTED = ("arf", "arf_v2")
"""Forms in which a stage learns the whole order, and nothing of the other stages."""


class Survival(NamedTuple):
    """Log-probabilities that a candidate is kept, and that it is cut, by a stage or by the stages so far."""

    kept: Tensor
    """(R, n)."""
    cut: Tensor
    """(R, n)."""

    @classmethod
    def first(cls, stage: Self, cuts: Tensor) -> Self:
        """The same of the first stage alone, in the lists that it cuts, (R, 1) bool; from others nothing is cut."""
        return cls(stage.kept.masked_fill(~cuts, 0), stage.cut.masked_fill(~cuts, -FAR))

    def then(self, stage: Self, cuts: Tensor) -> Self:
        """Add a stage, in the lists that it cuts, (R, 1) bool: Π up_s, and 1 − Π (1 − down_s)."""
        reached = torch.log1p(-self.cut.exp().clamp_max(MAX_CUT))
        kept = self.kept + stage.kept.masked_fill(~cuts, 0)
        return type(self)(kept, torch.where(cuts, torch.logaddexp(self.cut, stage.cut + reached), self.cut))

    def cross_entropy(self, true: Tensor, lists: PaddedLists) -> Tensor:
        """Mean binary cross-entropy over each list, with `true` (R, n) bool as the target: (R,)."""
        return -lists.mean(torch.where(true, self.kept, self.cut))


def cascade_values(
    loss: CascadeLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `CascadeLoss`."""
    if loss.form == "icc":
        return icc_values(loss, outputs, batch, funnel)
    lists = PaddedLists.of(batch, batch.in_population(loss.population(funnel)))
    true = lists(batch.in_population({funnel.levels.index(level): None for level in loss.positive}))
    value, cutting = (
        torch.zeros(len(true), device=true.device),
        torch.zeros_like(lists.size, dtype=torch.bool),
    )
    funnelled: Survival | None = None
    for stage in loss.reads(funnel):
        scores, keep = lists(outputs[stage].logits[loss.label]), loss.top or funnel.keep[stage]
        cuts = lists.size > keep
        cutting |= cuts
        log_variance = outputs[stage].log_variances.get(loss.name)
        if loss.form in SORTED:
            of_stage = _arf(loss, scores, lists, keep, true, lists(batch.level.float()), log_variance)
        else:
            survival = _survival(loss, scores, lists, keep)
            own = survival.cross_entropy(true, lists)
            of_stage = STAGE_WEIGHT[loss.form] * own if log_variance is None else _weigh(own, log_variance)
            cut = cuts.unsqueeze(1)
            funnelled = funnelled.then(survival, cut) if funnelled else Survival.first(survival, cut)
        value = value + of_stage.masked_fill(~cuts, 0)
    if funnelled:
        value = value + funnelled.cross_entropy(true, lists).masked_fill(~cutting, 0)
    return value, lists.mean(lists(batch.weight)) * cutting * true.any(1)


def _survival(loss: CascadeLoss, scores: Tensor, lists: PaddedLists, keep: int) -> Survival:
    if loss.form != "dftopk":
        return Survival(*NeuralSort.of(scores, lists.mask, loss.temperature).survival(keep))
    above = threshold(scores, lists.mask, keep) / loss.temperature
    kept = logsigmoid(above)
    return Survival(kept, kept - above)


def _arf(
    loss: CascadeLoss,
    scores: Tensor,
    lists: PaddedLists,
    keep: int,
    true: Tensor,
    depth: Tensor,
    log_variance: Tensor | None,
) -> Tensor:
    relaxed = NeuralSort.of(scores, lists.mask, loss.temperature)
    count = lists.size.clamp_min(1)
    whole_order = -relaxed.likelihood(depth).sum(1) / count
    if loss.form == "arf_v2":
        relax = Survival(*relaxed.survival(keep)).cross_entropy(true, lists)
    else:
        positives = true.sum(1).clamp_min(1) if log_variance is None else count
        relax = -torch.where(true, relaxed.top(keep) - math.log(keep), 0).sum(1) / positives
    return relax + (whole_order if log_variance is None else _weigh(whole_order / count, log_variance))


def _weigh(value: Tensor, log_variance: Tensor) -> Tensor:
    """A part of the loss times its learnt weight, and log σ, without which the weight would fall to 0."""
    return loss_weight(log_variance) * value + 0.5 * log_variance
