"""Form `icc` of the loss `cascade`: the order in which the whole cascade returns the candidates is learnt.

Letters: R requests · C candidates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.levels import best_dcg, pairs, rank_discounts
from corank.losses.padded import PaddedLists, falling_order
from corank.losses.settings.cascade import CascadeLoss
from corank.models.stage_io import StageOutput

GAINS = (0.0, 1.0)
"""What candidates that need not survive, and those that should, are worth."""


def icc_values(
    loss: CascadeLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `icc`."""
    chosen = batch.in_population(loss.population(funnel))
    lists = PaddedLists.of(batch, chosen)
    true = batch.in_population({funnel.levels.index(level): None for level in loss.positive})
    stages = [stage for stage in funnel.keep if stage in loss.reads(funnel)]
    cutting = torch.zeros_like(lists.size, dtype=torch.bool)
    reached, result = torch.ones_like(batch.weight), torch.zeros_like(batch.weight)
    for stage in stages:
        z, keep = outputs[stage].logits[loss.label], loss.top or funnel.keep[stage]
        cuts = lists.size > keep
        cutting |= cuts
        last = stage == stages[-1]
        kept = torch.zeros_like(z) if last else _kept(loss, z.detach(), lists, keep, cuts, batch)
        result, reached = result + reached * (1 - kept) * z, reached * kept
    by_truth = [PaddedLists.of(batch, chosen & ~true), PaddedLists.of(batch, chosen & true)]
    value, number = pairs(result, by_truth, GAINS, rank_discounts(result, lists))
    best = best_dcg(by_truth, GAINS, lists.mask.shape[1])
    eligible = cutting & (number > 0)
    return value / best.where(eligible, 1), lists.mean(lists(batch.weight)) * eligible


def _kept(loss: CascadeLoss, z: Tensor, lists: PaddedLists, keep: int, cuts: Tensor, batch: Batch) -> Tensor:
    """How far a stage keeps each candidate, by its distance from the last that it keeps: (C,)."""
    if not cuts.any():
        return torch.ones_like(z)
    laid = lists(z, -torch.inf)
    last = laid.gather(1, falling_order(laid)[:, keep - 1 : keep]).squeeze(1)
    request = batch.request_of.long()
    kept = ((z - last.where(cuts, 0)[request]) / loss.temperature).sigmoid()
    return torch.where(cuts[request], kept, 1)
