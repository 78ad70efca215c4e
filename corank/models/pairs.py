"""How rows of queries, items and events meet in candidates: by the indices of a batch, or within one request.

A stage's forward is written once against these; training gives it a batch, an exported graph one request.

Letters: R requests · I distinct items · C candidates · H distinct items of histories · L events of a request
· E events, of each request · P pairs of a candidate and an event of its request · h, w widths. I', C' and H' are
these rounded up (`corank.batches.batch.padded`); rows beyond belong to no candidate. Of one request C' = C = I.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from corank.batches.batch import AttendedEvents, Batch, Csr
from corank.batches.build import padded
from corank.models.tables.embedding import gather, sum_rows

Weigh = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Parts of targets, parts of events → the weight of each pair; the parts broadcast."""


class Pairs(ABC):
    """Brings rows of queries and of items to candidates."""

    @abstractmethod
    def sum(self, query: Tensor, item: Tensor, *terms: Tensor) -> Tensor:
        """query[request of c] + item[item of c] + the terms of c: (R, h), (I', h), (C', h) each → (C', h)."""

    @abstractmethod
    def dot(self, query: Tensor, item: Tensor) -> Tensor:
        """⟨query[request of c], item[item of c]⟩ in fp32: (R, h), (I', h) → (C,)."""

    @abstractmethod
    def dot_own(self, query: Tensor, own: Tensor) -> Tensor:
        """⟨query[request of c], own[c]⟩ in fp32: (R, h), (C', h) → (C,)."""

    @abstractmethod
    def spread_query(self, x: Tensor) -> Tensor:
        """x[request of c]: (R, h) → (C', h)."""

    @abstractmethod
    def spread_item(self, x: Tensor) -> Tensor:
        """x[item of c]: (I', h) → (C', h)."""

    @abstractmethod
    def earliest(self, x: Tensor) -> Tensor:
        """x[candidate of the item's earliest request]: (C', h) → (I', h)."""

    @abstractmethod
    def fill(self, x: Tensor) -> Tensor:
        """Add rows of zeros: (C, h) → (C', h)."""


class AttendedHistory(ABC):
    """The events of a history that a stage attends to, and how they meet the candidates."""

    items: Tensor
    """What is attended to of the events and their items: (H', w) of a batch, (L, w) of one request."""

    @abstractmethod
    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Σ weight · event over the events of each candidate's request: (C, w), in fp32 of a batch.

        Args:
            target: by item, parts of any widths: (I', ·) each.
            event: by row of `items`, parts of any widths, the last of which is summed: (H', ·) or (L, ·) each.
            weigh: what an event counts for a candidate, from the parts of both: (P, ·), (P, ·) → (P,) of a batch;
                (n, 1, ·), (L, ·) → (n, L) of one request.
        """


class BatchPairs(Pairs):
    """The candidates of a batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self._empty = batch, padded(len(batch)) - len(batch)

    def sum(self, query: Tensor, item: Tensor, *terms: Tensor) -> Tensor:
        """Sum in one pass over the pairs, its gradients by request and by item."""
        total = _pair_sum(query, item, self.batch)
        return total + reduce(add, terms) if terms else total

    def dot(self, query: Tensor, item: Tensor) -> Tensor:
        """Products of gathered rows."""
        return _pair_dot(query.float(), item.float(), self.batch)

    def dot_own(self, query: Tensor, own: Tensor) -> Tensor:
        """Products of gathered rows of queries and the candidates' own."""
        return _own_dot(query.float(), own.float(), self.batch)

    def spread_query(self, x: Tensor) -> Tensor:
        """Gather by request."""
        return self.fill(gather_rows(x, self.batch.request_of, self.batch.requests))

    def spread_item(self, x: Tensor) -> Tensor:
        """Gather by item."""
        return self.fill(gather_rows(x, self.batch.item_of, self.batch.items))

    def earliest(self, x: Tensor) -> Tensor:
        """Select one candidate of each item."""
        assert self.batch.earliest is not None
        found = x.index_select(0, self.batch.earliest)
        return pad(found, (0, 0, 0, padded(len(found)) - len(found)))

    def fill(self, x: Tensor) -> Tensor:
        """Fill up to C' rows."""
        return pad(x, (0, 0, 0, self._empty))


class RequestPairs(Pairs):
    """The candidates of one request, each an item row of its own."""

    def __init__(self, count: int) -> None:
        self._count = count

    def sum(self, query: Tensor, item: Tensor, *terms: Tensor) -> Tensor:
        """Sum by broadcasting the one query."""
        return reduce(add, terms, query + item)

    def dot(self, query: Tensor, item: Tensor) -> Tensor:
        """One product of a matrix and a vector."""
        return item @ query.squeeze(0)

    def dot_own(self, query: Tensor, own: Tensor) -> Tensor:
        """One product of a matrix and a vector."""
        return self.dot(query, own)

    def spread_query(self, x: Tensor) -> Tensor:
        """Repeat the one query."""
        return x.expand(self._count, -1)

    def spread_item(self, x: Tensor) -> Tensor:
        """The items are the candidates."""
        return x

    def earliest(self, x: Tensor) -> Tensor:
        """There is one request."""
        return x

    def fill(self, x: Tensor) -> Tensor:
        """There is nothing to fill."""
        return x


class BatchHistory(AttendedHistory):
    """The events of a batch's requests."""

    def __init__(self, items: Tensor, past: AttendedEvents, batch: Batch) -> None:
        self.items, self._past, self._batch = items, past, batch

    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Weigh the pairs of candidates and events, and sum by candidate."""
        past, batch = self._past, self._batch
        # gathered side by side: one pass over the indices, and one sum of gradients
        of_candidate = gather_rows(torch.cat(tuple(target), 1), batch.item_of, batch.items)
        of_event = gather_rows(torch.cat(tuple(event), 1), past.event, past.events)
        left = gather_rows(of_candidate, past.candidate, past.candidates)
        right = gather_rows(of_event, past.slot, past.slots)
        weight = weigh(
            torch.split(left, [part.shape[1] for part in target], 1),
            torch.split(right, [part.shape[1] for part in event], 1),
        )
        summed = of_event[:, of_event.shape[1] - event[-1].shape[1] :]
        return _weighted_sum(weight.float(), summed.float().contiguous(), past)


class SingleRequestHistory(AttendedHistory):
    """The events of one request; `mask` is 0 for one that only fills up an empty history: (L,)."""

    def __init__(self, items: Tensor, mask: Tensor) -> None:
        self.items, self.mask = items, mask

    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        return (weigh([part.unsqueeze(1) for part in target], event) * self.mask) @ event[-1]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor, back: Csr) -> Tensor:
        ctx.back = back
        return gather(x, row)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return sum_rows(gradient.contiguous(), ctx.back), None, None


_gather_rows: Callable[..., Tensor] = _GatherRows.apply


def gather_rows(x: Tensor, row: Tensor, back: Csr) -> Tensor:
    """x[row], whose gradient is summed by `back`, in its fixed order."""
    return _gather_rows(x, row, back)


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return sum_rows(torch.cat((query, item)), batch.pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradient.contiguous()
        return sum_rows(gradient, ctx.batch.requests), sum_rows(gradient, ctx.batch.items), None


_pair_sum: Callable[..., Tensor] = _PairSum.apply


class _PairDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch) -> Tensor:
        left, right = gather(query, batch.request_of), gather(item, batch.item_of)
        ctx.save_for_backward(left, right)
        ctx.batch = batch
        dot: Tensor = torch.linalg.vecdot(left, right)
        return dot

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (left, right), batch = ctx.saved_tensors, ctx.batch
        by_request, by_item = _weighted(batch.requests, gradient), _weighted(batch.items, gradient)
        return sum_rows(right, by_request), sum_rows(left, by_item), None


_pair_dot: Callable[..., Tensor] = _PairDot.apply


class _OwnDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, own: Tensor, batch: Batch) -> Tensor:
        left = gather(query, batch.request_of)
        ctx.save_for_backward(left, own)
        ctx.batch = batch
        dot: Tensor = torch.linalg.vecdot(left, own[: len(left)])
        return dot

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        left, own = ctx.saved_tensors
        of_own = pad(gradient.unsqueeze(1) * left, (0, 0, 0, len(own) - len(left)))
        return sum_rows(own, _weighted(ctx.batch.requests, gradient)), of_own, None


_own_dot: Callable[..., Tensor] = _OwnDot.apply


def _weighted(sums: Csr, weight: Tensor) -> Csr:
    """Sums of weighted rows, given the weight of each row: (C,)."""
    return Csr(sums.row, sums.start, weight.index_select(0, sums.row))


class _WeightedSum(torch.autograd.Function):
    """For each candidate Σ weight · event over its pairs: (P,), (E, w) → (C, w)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, event: Tensor, past: AttendedEvents) -> Tensor:
        ctx.save_for_backward(weight, event)
        ctx.past = past
        return sum_rows(event, Csr(past.slot, past.candidates.start, weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (weight, event), past = ctx.saved_tensors, ctx.past
        gradient = gradient.contiguous()
        by_pair = gather(gradient, past.candidate)
        of_weight = torch.linalg.vecdot(by_pair, gather(event, past.slot))
        order = past.slots.row
        by_slot = Csr(past.candidate.index_select(0, order), past.slots.start, weight.index_select(0, order))
        return of_weight, sum_rows(gradient, by_slot), None


_weighted_sum: Callable[..., Tensor] = _WeightedSum.apply
