"""How rows of queries and items meet in candidates: by the indices of a batch, or within one request.

A stage's forward is written once against these; training gives it a batch, an exported graph one request.

Letters: R requests · I distinct items · C candidates · h, w widths. I' and C' are these rounded up
(`corank.batches.batch.padded`); rows beyond belong to no candidate. Of one request C' = C = I.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import pad

from corank.batches.batch import Batch, CandidateSubset, Csr, padded
from corank.models.tables.embedding import gather, sum_rows


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


class BatchPairs(Pairs):
    """The candidates of a batch, or K of them."""

    def __init__(self, batch: Batch | CandidateSubset) -> None:
        self.batch, self._empty = batch, padded(len(batch)) - len(batch)

    def __len__(self) -> int:
        return len(self.batch)

    def select(self, x: Tensor) -> Tensor:
        """The values of its candidates, without gradient: (C,) of the whole batch → (K,), or (C, ·) → (K, ·)."""
        return x if isinstance(self.batch, Batch) else x.detach().index_select(0, self.batch.index)

    def select_dense(self, x: Tensor) -> Tensor:
        """The rows of its candidates, filled up: (C', ·) of the whole batch → (K', ·)."""
        if isinstance(self.batch, Batch):
            return x
        return self.fill(gather_rows(x, self.batch.index, self.batch.rows))

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
        rows = x.index_select(0, self.batch.earliest)
        return pad(rows, (0, 0, 0, padded(len(rows)) - len(rows)))

    def fill(self, x: Tensor) -> Tensor:
        """Fill up to C' rows."""
        return pad(x, (0, 0, 0, self._empty))


def dot_requests(query: Tensor, item: Tensor, request_of: Tensor) -> Tensor:
    """⟨query[request_of[c]], item[c]⟩ in an exported graph: (R, h), (n, h), (n,) → (n,).

    One product of all queries and all items, of which each candidate's is chosen, takes less time than gathered
    queries. Queries are there twice, since the runtime sums in another order if there is only one: the last bit of a
    score must not depend on other requests.
    """
    every = functional.linear(torch.cat((query, query)), item)
    return every.gather(0, request_of.unsqueeze(0)).squeeze(0)


class RequestPairs(Pairs):
    """The candidates of the requests of an exported graph, each an item row of its own."""

    def __init__(self, request_of: Tensor) -> None:
        """`request_of`: the query row of each candidate: (n,) int64."""
        self._request_of = request_of

    def sum(self, query: Tensor, item: Tensor, *terms: Tensor) -> Tensor:
        """Sum with gathered queries."""
        return reduce(add, terms, self.spread_query(query) + item)

    def dot(self, query: Tensor, item: Tensor) -> Tensor:
        """As `dot_requests`."""
        return dot_requests(query, item, self._request_of)

    def dot_own(self, query: Tensor, own: Tensor) -> Tensor:
        """As `dot_requests`."""
        return self.dot(query, own)

    def spread_query(self, x: Tensor) -> Tensor:
        """Gather by request."""
        return x.index_select(0, self._request_of)

    def spread_item(self, x: Tensor) -> Tensor:
        """The items are the candidates."""
        return x

    def earliest(self, x: Tensor) -> Tensor:
        """An item row is of one candidate."""
        return x

    def fill(self, x: Tensor) -> Tensor:
        """There is nothing to fill."""
        return x


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
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch | CandidateSubset) -> Tensor:
        ctx.batch = batch
        return sum_rows(torch.cat((query, item)), batch.pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradient.contiguous()
        return sum_rows(gradient, ctx.batch.requests), sum_rows(gradient, ctx.batch.items), None


_pair_sum: Callable[..., Tensor] = _PairSum.apply


class _PairDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, batch: Batch | CandidateSubset) -> Tensor:
        ctx.save_for_backward(query, item)
        ctx.batch = batch
        products = gather(item, batch.item_of).mul_(gather(query, batch.request_of))
        return products.sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (query, item), batch = ctx.saved_tensors, ctx.batch
        return (
            sum_rows(item, _weighted(batch.requests, gradient, batch.item_of)),
            sum_rows(query, _weighted(batch.items, gradient, batch.request_of)),
            None,
        )


_pair_dot: Callable[..., Tensor] = _PairDot.apply


class _OwnDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, own: Tensor, batch: Batch | CandidateSubset) -> Tensor:
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


def _weighted(sums: Csr, weight: Tensor, row_of: Tensor | None = None) -> Csr:
    """Sums of weighted rows, given the weight of each row, (C,), and its row in the matrix, itself if None: (C,)."""
    row = sums.row if row_of is None else row_of.index_select(0, sums.row)
    return Csr(row, sums.start, weight.index_select(0, sums.row))
