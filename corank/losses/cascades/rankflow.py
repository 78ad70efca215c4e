"""Loss `rankflow`: a stage learns on what earlier stages pass on to it, from the log and from the stage after it.

Letters: R requests · n the longest list.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.padded import PaddedLists, falling_order
from corank.losses.settings.rankflow import RankFlowLoss
from corank.models.stage_io import StageOutput


def rankflow_values(
    loss: RankFlowLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `RankFlowLoss`."""
    lists = PaddedLists.of(batch, batch.in_population(loss.population(funnel)))
    true = lists(batch.in_population({funnel.levels.index(level): None for level in loss.positive}).float())
    stages = [stage for stage in funnel.keep if stage in loss.reads(funnel)]
    logits = [lists(outputs[stage].logits[loss.label]) for stage in stages]
    quotas = [loss.top or funnel.keep[stage] for stage in stages]
    candidates, value = lists.mask, torch.zeros(len(true), device=true.device)
    for n, z in enumerate(logits):
        entropy = binary_cross_entropy_with_logits(z, true, reduction="none")
        value = value + _mean(entropy, candidates)
        if n + 1 < len(stages):
            teacher = logits[n + 1].detach()
            best = first(teacher, candidates, quotas[n + 1])
            value = value + loss.alpha * _choice(z, best, candidates & ~best)
            value = value + (1 - loss.alpha) * _mean((z - teacher) ** 2, candidates)
            candidates = first(z.detach(), candidates, quotas[n])
    return value, lists.mean(lists(batch.weight)) * (lists.size > 0)


def first(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Mark the `count` of each list that have the highest scores, among those marked: (R, n) bool."""
    order = falling_order(scores.masked_fill(~among, -torch.inf))
    marked = torch.zeros_like(among).scatter(1, order[:, :count], True)
    return marked & among


def _choice(z: Tensor, best: Tensor, rest: Tensor) -> Tensor:
    """−log σ of the distance between the mean logits of two groups, 0 where one is empty: (R,)."""
    distance = softplus(_mean(z, rest) - _mean(z, best))
    return distance.masked_fill(~(best.any(1) & rest.any(1)), 0)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of each list where it is marked, 0 if nowhere: (R, n) → (R,)."""
    return torch.where(where, values, 0).sum(1) / where.sum(1).clamp_min(1)
