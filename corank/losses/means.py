"""Weighted means of losses over the requests of all ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from corank.distributed.ranks import Ranks


def weighted_sum(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w·l and Σ w over unmasked candidates."""
    return (torch.where(weights > 0, values, 0) * weights).sum(), weights.sum()


def divide(value: Tensor, weight: Tensor) -> Tensor:
    """A mean from Σ w·l and Σ w; 0 if there is nothing to average."""
    return value / weight.clamp_min(torch.finfo(weight.dtype).tiny)


def average_losses(sums: Sequence[tuple[Tensor, Tensor]], ranks: Ranks) -> tuple[list[Tensor], list[Tensor]]:
    """Divide sums by the weights of all ranks, in one collective.

    Args:
        sums: of each loss Σ w·l and Σ w of this rank.
        ranks: all of them.

    Returns:
        This rank's part of each mean, and each mean without gradient; the parts of all ranks add up to it.
    """
    if ranks.alone:
        means = [divide(value, weight) for value, weight in sums]
        return means, [mean.detach() for mean in means]
    of_ranks = ranks.sum(torch.stack([part.detach().double() for pair in sums for part in pair]), "losses")
    weights = of_ranks[1::2].unbind()
    parts = [divide(value, weight.to(value.dtype)) for (value, _), weight in zip(sums, weights, strict=True)]
    return parts, [divide(value, weight) for value, weight in zip(of_ranks[::2], weights, strict=True)]


def sum_means(weights: Sequence[float], means: Sequence[Tensor]) -> Tensor:
    """Σ weight · mean: ()."""
    return torch.stack([weight * mean for weight, mean in zip(weights, means, strict=True)]).sum()
