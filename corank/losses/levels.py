"""Loss `levels`: a candidate that came deeper in the log's funnel must lead one that did not.

Letters: R requests · C candidates · n the longest list.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad, softplus

from corank.batches.batch import Batch
from corank.losses.base import FunnelSpec
from corank.losses.padded import FAR, PaddedLists, falling_order
from corank.losses.settings.levels import LevelsLoss
from corank.models.stage_io import StageOutput


def levels_values(
    loss: LevelsLoss, outputs: Mapping[str, StageOutput], batch: Batch, funnel: FunnelSpec
) -> tuple[Tensor, Tensor]:
    """The formula of `LevelsLoss`."""
    chosen = batch.in_population(loss.population(funnel))
    z = outputs[loss.stage].logits[loss.label] / loss.temperature
    positive = batch.in_population(
        {funnel.levels.index(level): None for level in loss.positive_levels(funnel)}
    ).float()
    if loss.form == "bce":
        return binary_cross_entropy_with_logits(z, positive, reduction="none"), batch.weight * chosen
    lists = PaddedLists.of(batch, chosen)
    weight = lists.mean(lists(batch.weight))
    if loss.form == "softmax":
        value, eligible = softmax(lists(z, -torch.inf), lists(positive))
        return value, weight * eligible
    by_level = [
        PaddedLists.of(batch, chosen & (batch.level == code)) for code in sorted(loss.population(funnel))
    ]
    if loss.form == "ranknet":
        value, number = pairs(z, by_level)
        return value / number.clamp_min(1), weight * (number > 0)
    gains = loss.gains or [2.0**depth - 1 for depth in range(len(by_level))]
    value, number = pairs(z, by_level, gains, rank_discounts(z, lists))
    return value / best_dcg(by_level, gains, lists.mask.shape[1]).where(number > 0, 1), weight * (number > 0)


def softmax(z: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean of −log softmax(z) of each list, weighted by gains, and which lists count.

    Args:
        z: logits, −∞ beyond the list: (R, n).
        gain: 1 for positives, or what each is worth; 0 for others and beyond the list: (R, n).

    Returns:
        Losses: (R,), and whether two gains of a list differ: (R,).
    """
    total = gain.sum(1)
    if not z.shape[1]:
        return z.sum(1), total
    lowest = gain.masked_fill(z == -torch.inf, torch.inf).amin(1)
    eligible = gain.amax(1) > lowest
    # an empty list has no softmax; its zeros keep the others' gradients numbers
    log = torch.where(eligible.unsqueeze(1), z, 0).log_softmax(1)
    return -(torch.where(gain > 0, log, 0) * gain).sum(1) / total.where(eligible, 1), eligible


def pairs(
    z: Tensor,
    by_level: Sequence[PaddedLists],
    gains: Sequence[float] | None = None,
    discount: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum softplus(z_b − z_a) over pairs of a deeper than b, and the pairs' weights without discounts: (R,), (R,).

    Args:
        z: (C,).
        by_level: the candidates of each level, or grade, the lowest first.
        gains: G by level, never falling, by which pairs are weighted, as G_a − G_b; unweighted unless given.
        discount: D by which pairs are weighted, too, as |D_a − D_b|: (C,).
    """
    n = [lists.mask.shape[1] for lists in by_level]
    gain_of = None if gains is None else torch.tensor(gains, dtype=z.dtype, device=z.device)
    gain = None if gain_of is None else torch.cat([g.expand(k) for g, k in zip(gain_of, n, strict=True)])
    # padding has no loss: far above all as the deeper of a pair, far below all as the shallower
    shallower = torch.cat([lists(z, -FAR) for lists in by_level], dim=1)
    discounts_of = None if discount is None else torch.cat([lists(discount) for lists in by_level], dim=1)
    value, mass = torch.zeros_like(by_level[0].size, dtype=z.dtype), torch.zeros_like(by_level[0].size)
    first, under = n[0], by_level[0].size
    worth = under * (0 if gain_of is None else gain_of[0])  # Σ G over the candidates under a level
    for depth, lists in enumerate(by_level[1:], start=1):
        last = first + n[depth]
        loss = softplus(shallower[:, None, :first] - lists(z, FAR).unsqueeze(2))
        if discounts_of is not None:
            loss = loss * (discounts_of[:, first:last, None] - discounts_of[:, None, :first]).abs_()
        if gain_of is None or gain is None:
            mass = mass + lists.size * under
        else:
            loss = loss * (gain_of[depth] - gain[:first])
            mass = mass + lists.size * (gain_of[depth] * under - worth)
            worth = worth + lists.size * gain_of[depth]
        value = value + loss.sum((1, 2))
        first, under = last, under + lists.size
    return value, mass


def discounts(n: int, device: torch.device) -> Tensor:
    """Compute 1 / log2(1 + rank) for the ranks 1 … n: (n,)."""
    return 1 / torch.log2(torch.arange(2, n + 2, device=device))


def rank_discounts(z: Tensor, lists: PaddedLists) -> Tensor:
    """Compute the discount of each candidate's rank in its request by z, 0 outside the lists: (C,)."""
    order = falling_order(lists(z.detach(), -torch.inf))
    by_rank = discounts(order.shape[1], z.device).expand(order.shape)
    list_discounts = torch.zeros_like(by_rank).scatter(1, order, by_rank)
    # padding is written to an extra entry past the end
    at = torch.where(lists.mask, lists.index, len(z))
    return z.new_zeros(len(z) + 1).index_copy_(0, at.view(-1), list_discounts.view(-1))[:-1]


def best_dcg(by_level: Sequence[PaddedLists], gains: Sequence[float], n: int) -> Tensor:
    """Compute the DCG of each list in the order of its levels, the deepest first: (R,).

    Args:
        by_level: the candidates of each level, shallow to deep.
        gains: G by level, never falling.
        n: the longest list over all levels.
    """
    upto = pad(discounts(n, by_level[0].size.device).cumsum(0), (1, 0))
    total, first = torch.zeros_like(by_level[0].size, dtype=upto.dtype), torch.zeros_like(by_level[0].size)
    for gain, lists in reversed(list(zip(gains, by_level, strict=True))):
        last = first + lists.size
        total += gain * (upto[last] - upto[first])
        first = last
    return total
