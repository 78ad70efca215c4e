"""The distinct items of a batch, of all ranks: what a loss compares a request's items with.

Letters: C candidates of this rank · I item rows of this rank · J items · d width of the vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from corank.batches.batch import Batch
from corank.batches.sampling import SOURCES
from corank.distributed.ranks import Ranks


@dataclass(frozen=True)
class BatchItems:
    """The items of a batch. Rows of one item, as it was at several times, are one item: the first stands for all, at
    its earliest request in the batch, so that no row shows what happened after a request that clicked it."""

    vectors: Tensor
    """(J, d) fp32. Alone there is one of every item row, and those that another stands for are hidden."""
    log_p: Tensor
    """log of the probability that an item is in a batch at all: (J,)."""
    hidden: Tensor
    """Whether no candidate of the log is of the item, or another row stands for it: (J,) bool."""
    item: Tensor
    """The item of each item row of this rank: (I,) int64."""

    @classmethod
    def of(cls, batch: Batch, vectors: Tensor) -> Self:
        """Find the items of a batch. A collective.

        Args:
            batch: this rank's part.
            vectors: of its item rows: (I, d). Those that other ranks take get their gradients from there.
        """
        first = torch.searchsorted(batch.ordinal, batch.ordinal)
        log = batch.level < min(SOURCES.values())
        logged = torch.zeros_like(first, dtype=torch.bool).index_fill(0, first[batch.item_of[log].long()], 1)
        if batch.ranks.alone:
            return cls(vectors.float(), log_inclusion(log.sum(), batch.share), ~logged, first)
        return cls._of_ranks(batch, vectors, first, logged, log.sum())

    @classmethod
    def _of_ranks(cls, batch: Batch, vectors: Tensor, first: Tensor, logged: Tensor, count: Tensor) -> Self:
        distinct = torch.nonzero(first == torch.arange(len(first), device=first.device)).squeeze(1)
        when = torch.zeros_like(batch.ordinal) if batch.earliest_time is None else batch.earliest_time
        columns = torch.stack(
            [c[distinct].double() for c in (batch.ordinal, batch.item_row, when, logged, batch.share)], 1
        )
        header = columns.new_zeros(1, columns.shape[1])
        header[0, 0] = count
        parts = batch.ranks.gather(torch.cat((header, columns)), "items of the batch")
        candidates = torch.stack([part[0, 0] for part in parts]).sum()
        ordinal, row, time, in_log, share = torch.cat([part[1:] for part in parts]).unbind(1)
        rank = torch.cat([torch.full((len(part) - 1,), n) for n, part in enumerate(parts)]).to(ordinal.device)

        # by item, then row, then time, then rank: the first of each item stands for all
        order = torch.argsort(time, stable=True)
        order = order[torch.argsort(row[order], stable=True)]
        order = order[torch.argsort(ordinal[order], stable=True)]
        items, of_row = ordinal[order].unique_consecutive(return_inverse=True)
        chosen = order[torch.searchsorted(of_row, torch.arange(len(items), device=order.device))]
        by_rank = torch.argsort(rank[chosen], stable=True)
        position = torch.empty_like(by_rank)
        position[by_rank] = torch.arange(len(items), device=order.device)
        is_logged = torch.zeros_like(items).index_add_(0, position[of_row], in_log[order]) > 0
        chosen = chosen[by_rank]

        counts = torch.bincount(rank[chosen], minlength=batch.ranks.world).tolist()
        begin = sum(len(part) - 1 for part in parts[: batch.ranks.rank])
        own = chosen[rank[chosen] == batch.ranks.rank] - begin
        gathered = _gather_vectors(vectors.float()[distinct[own]], counts, batch.ranks)
        log_p = log_inclusion(candidates, share[chosen]).to(batch.share.dtype)
        return cls(gathered, log_p, ~is_logged, position[torch.searchsorted(items, batch.ordinal.double())])


def log_inclusion(candidates: Tensor, share: Tensor) -> Tensor:
    """log(1 − (1 − share)^candidates): the items of a batch are distinct, so one that is drawn twice counts once."""
    return torch.log(-torch.expm1(candidates * torch.log1p(-share)))


class _GatherVectors(torch.autograd.Function):
    """The vectors of all ranks; their gradients, summed over the ranks, go back to where they come from."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
        ctx.counts, ctx.ranks = counts, ranks
        return torch.cat(ranks.gather(own, "vectors of the batch's items", counts))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ranks, own = ctx.ranks, ctx.counts[ctx.ranks.rank]
        received = [own] * ranks.world
        what = "gradients of the batch's items"
        arrived = ranks.exchange(gradient, ctx.counts, received, what)
        return arrived.view(ranks.world, own, gradient.shape[1]).sum(0), None, None


_gather_vectors: Callable[..., Tensor] = _GatherVectors.apply
