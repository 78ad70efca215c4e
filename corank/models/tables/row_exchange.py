"""What the ranks send each other of a batch's table rows: sharded tables their rows, all of them their gradients.

Rows of several dimensions travel together, so that a batch takes few collectives however many tables there are.

Letters: W ranks · U distinct table rows of this rank's part of a batch · Q rows that all ranks need of this one
· N distinct rows that are updated here · d dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from corank.batches.batch import Csr, TableLookup, group
from corank.distributed.ranks import Pending, Ranks
from corank.models.tables.embedding import gather, sum_rows

Lookups = Mapping[int, TableLookup]
"""By table dimension."""


class GradientSum(ABC):
    """Sums the gradients of a batch's table rows over all ranks; made for each batch.

    The ranks agree on the rows by two messages, counts and numbers, both of which they can send while the batch before
    is computed: all in the same order, and nobody waits until what arrived is read.
    """

    def __init__(
        self, lookups: Lookups, ranks: Ranks, needed: Sequence[Sequence[int]], rows: Sequence[Tensor]
    ) -> None:
        """Begin to send every rank how many rows follow. A collective.

        Args:
            lookups: of this rank's part of the batch.
            ranks: all of them.
            needed: by rank and dimension, how many rows this one sends numbers of.
            rows: their numbers, by dimension and then rank.
        """
        self.ranks, self.dims, self._needed = ranks, list(lookups), needed
        self._rows = rows
        each = [len(self.dims)] * ranks.world
        counts = torch.tensor(needed).reshape(-1)
        self._counts = ranks.start_exchange(counts, each, each, "counts of table rows")

    @abstractmethod
    def send(self, gradients: Mapping[int, Tensor]) -> Pending:
        """Begin to send the gradients of this rank's distinct rows, of every dimension: (U, d) each. A collective."""

    def sum(self, sent: Pending) -> dict[int, tuple[Tensor, Tensor]]:
        """Sum the gradients that all ranks send, each row's in rank order.

        Returns:
            For each dimension the rows to update here, ascending, and their gradients: (N,), (N, d).
        """
        arrived = _by_dim(sent.wait(), self._sizes(self._wanted))
        return {
            dim: (rows, sum_rows(flat.view(-1, dim), csr))
            for (dim, (rows, csr)), flat in zip(self.sums.items(), arrived, strict=True)
        }

    def send_numbers(self) -> None:
        """Begin to send every rank the numbers of the rows, unless that is begun. A collective."""
        _ = self._numbers

    @cached_property
    def _wanted(self) -> list[list[int]]:
        """By rank and dimension, how many rows this one receives numbers of."""
        wanted: list[list[int]] = self._counts.wait().reshape(self.ranks.world, -1).tolist()
        return wanted

    @cached_property
    def _numbers(self) -> Pending:
        rows = _by_rank(self._rows, self._needed)
        return self.ranks.start_exchange(
            rows, _totals(self._needed), _totals(self._wanted), "numbers of table rows"
        )

    @cached_property
    def _received(self) -> dict[int, Tensor]:
        """By dimension the rows whose numbers were received, in rank order: (Q,) each."""
        return dict(zip(self.dims, _by_dim(self._numbers.wait(), self._wanted), strict=True))

    @cached_property
    def sums(self) -> dict[int, tuple[Tensor, Csr]]:
        """By dimension the distinct rows that gradients arrive for, and the sums over what arrives."""
        sums = {}
        for dim, rows in self._received.items():
            distinct, start, order = group(rows.cpu().numpy())
            here = [torch.from_numpy(a).to(rows.device) for a in (distinct, order, start)]
            sums[dim] = (here[0], Csr(here[1], here[2], None))
        return sums

    def _sizes(self, counts: Sequence[Sequence[int]]) -> list[list[int]]:
        """How many numbers so many rows have, by rank and dimension."""
        return [[n * dim for n, dim in zip(of_rank, self.dims, strict=True)] for of_rank in counts]


class RowExchange(GradientSum):
    """Rows of sharded tables, sent by their owners to the ranks that need them, and gradients the other way."""

    def __init__(self, lookups: Lookups, ranks: Ranks) -> None:
        """Begin to ask every rank for those of its rows that this one needs. A collective."""
        needed = _by_part([lookup.owned for lookup in lookups.values()])
        super().__init__(lookups, ranks, needed, [lookup.touched for lookup in lookups.values()])

    def fetch(self, weights: Mapping[int, Tensor]) -> Pending:
        """Begin to get this rank's distinct rows from their owners. A collective.

        Args:
            weights: this rank's shard of each dimension's table.
        """
        rows = [gather(weights[dim], self._received[dim]) for dim in self.dims]
        return self._send(rows, self._wanted, self._needed, "table rows")

    def take(self, fetched: Pending) -> dict[int, Tensor]:
        """Take the rows that are fetched, in the order of `TableLookup.touched`, by dimension: (U, d) each."""
        parts = zip(self.dims, _by_dim(fetched.wait(), self._sizes(self._needed)), strict=True)
        return {dim: part.view(-1, dim) for dim, part in parts}

    def send(self, gradients: Mapping[int, Tensor]) -> Pending:
        """Begin to send each owner the gradients of its rows."""
        parts = [gradients[dim] for dim in self.dims]
        return self._send(parts, self._needed, self._wanted, "gradients of table rows")

    def _send(
        self, rows: Sequence[Tensor], to: Sequence[Sequence[int]], by: Sequence[Sequence[int]], what: str
    ) -> Pending:
        """Begin to send rows of each dimension, `to` and received `by` rank and dimension."""
        sent, received = self._sizes(to), self._sizes(by)
        flat = _by_rank([part.reshape(-1) for part in rows], sent)
        return self.ranks.start_exchange(flat, _totals(sent), _totals(received), what)


class RowUnion(GradientSum):
    """Rows of replicated tables: every rank gets all gradients, and sums them alike."""

    def __init__(self, lookups: Lookups, ranks: Ranks) -> None:
        """Begin to tell every rank which rows this one has gradients of. A collective."""
        touched = [lookup.touched for lookup in lookups.values()]
        needed = [[len(rows) for rows in touched]] * ranks.world
        super().__init__(lookups, ranks, needed, [rows.repeat(ranks.world) for rows in touched])

    def send(self, gradients: Mapping[int, Tensor]) -> Pending:
        """Gather the gradients of all ranks."""
        flat = torch.cat([gradients[dim].reshape(-1) for dim in self.dims])
        sizes = _totals(self._sizes(self._wanted))
        return Pending(torch.cat(self.ranks.gather(flat, "gradients of table rows", sizes)))


def _totals(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(of_rank) for of_rank in counts]


def _by_rank(parts: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> Tensor:
    """Lay out parts, each of them by rank, end to end by rank and then part; `counts` are by rank and part."""
    if len(parts) == 1:
        return parts[0]
    cut = [part.split(of_part) for part, of_part in zip(parts, _by_part(counts), strict=True)]
    return torch.cat([piece for of_rank in zip(*cut, strict=True) for piece in of_rank])


def _by_dim(flat: Tensor, counts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Take apart what `_by_rank` laid end to end."""
    if len(counts[0]) == 1:
        return [flat]
    pieces = flat.split([count for of_rank in counts for count in of_rank])
    parts = len(counts[0])
    return [torch.cat(pieces[n::parts]) for n in range(parts)]


def _by_part(counts: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(of_part) for of_part in zip(*counts, strict=True)]
