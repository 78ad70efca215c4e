"""Makes the sets of tables of a model: whole on this rank, replicated on each, or sharded by row over the ranks.

Letters: U distinct table rows of this rank's part of a batch · d dimension.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from corank.batches.batch import TableLookup
from corank.core.types import Ints
from corank.distributed.ranks import Pending, Ranks
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.features.input_layout import Layout
from corank.models.tables.embedding import Tables, row_gradient, sum_rows
from corank.models.tables.row_exchange import GradientSum, RowExchange, RowUnion

G = TypeVar("G", bound=GradientSum)
SCALE = 0.02
"""Standard deviation of the rows' numbers."""


class LatestBatches(Generic[G]):
    """What the ranks agree on for a batch and the one after it; all sets of tables share it."""

    def __init__(self, agree: Callable[[Mapping[int, TableLookup], Ranks], G], ranks: Ranks) -> None:
        self._agree, self._ranks = agree, ranks
        self._latest: list[tuple[Mapping[int, TableLookup], G]] = []

    def __call__(self, lookups: Mapping[int, TableLookup]) -> G:
        """Begin to agree on a batch, unless that is begun. A collective."""
        for known, agreement in self._latest:
            if known is lookups:
                return agreement
        agreement = self._agree(lookups, self._ranks)
        self._latest = [*self._latest[-1:], (lookups, agreement)]
        return agreement


class RankTables(Tables, Generic[G]):
    """A set of tables whose rows, or gradients, several ranks exchange."""

    def __init__(self, weights: Mapping[int, Tensor], buckets: range, agree: LatestBatches[G]) -> None:
        super().__init__(weights, buckets)
        self.agree = agree
        self._lookups = dict[int, TableLookup]()
        self._sent = Pending(torch.empty(0))

    @abstractmethod
    def gradients(self) -> dict[int, Tensor]:
        """By dimension the gradients of the latest batch's distinct rows, zeros where it did not reach: (U, d) each."""

    def send_gradients(self) -> None:
        """Begin to send the gradients of this rank to others. A collective."""
        agreement = self.agree(self._lookups)
        self._sent = agreement.send(self.gradients())
        _ = agreement.sums  # made while gradients travel

    def sum_gradients(self, reached: Sequence[bool]) -> None:
        """Sum the gradients of all ranks, each row's in rank order; none of dimensions that no rank reached."""
        summed = self.agree(self._lookups).sum(self._sent)
        for (dim, (rows, values)), some in zip(summed.items(), reached, strict=True):
            weight = self.weights[str(dim)]
            weight.grad = row_gradient(rows, values, weight.shape) if some else None


class ReplicatedTables(RankTables[RowUnion]):
    """A set of tables that every rank has whole, and updates alike."""

    def forward(self, lookups: dict[int, TableLookup]) -> dict[int, tuple[Tensor, ...]]:
        """Bag sums by table dimension, one (B, d) for each placement of `lookup.reads`, in that order."""
        self._lookups = lookups
        return super().forward(lookups)

    def gradients(self) -> dict[int, Tensor]:
        """By dimension the gradients of the latest batch's distinct rows, zeros where it did not reach: (U, d) each."""
        gradients = {}
        for dim, lookup in self._lookups.items():
            weight = self.weights[str(dim)]
            zeros = weight.new_zeros(len(lookup.touched), dim)
            gradients[dim] = zeros if weight.grad is None else weight.grad._values()
        return gradients


class _LookUpFetched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lookup: TableLookup) -> tuple[Tensor, ...]:
        ctx.lookup = lookup
        return tuple(sum_rows(rows, read) for read in lookup.reads.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return sum_rows(torch.cat(gradients), ctx.lookup.back), None


_look_up_fetched: Callable[..., tuple[Tensor, ...]] = _LookUpFetched.apply


class ShardedTables(RankTables[RowExchange]):
    """This rank's shard of a set of tables. What a batch reads is fetched from its owners.

    The rows fetched are a leaf of the backward pass: its collectives follow it, in an order that is the same on all
    ranks even if it does not reach the tables on some of them.
    """

    def __init__(
        self, weights: Mapping[int, Tensor], buckets: range, agree: LatestBatches[RowExchange]
    ) -> None:
        super().__init__(weights, buckets, agree)
        self._fetched = dict[int, Tensor]()
        self._coming: tuple[dict[int, TableLookup], Pending] | None = None

    def fetch(self, lookups: dict[int, TableLookup]) -> None:
        """Begin to get the rows that the next forward pass reads. A collective."""
        weights = {int(dim): weight.detach() for dim, weight in self.weights.items()}
        self._coming = lookups, self.agree(lookups).fetch(weights)

    def forward(self, lookups: dict[int, TableLookup]) -> dict[int, tuple[Tensor, ...]]:
        """Bag sums by table dimension, one (B, d) for each placement of `lookup.reads`, in that order."""
        if not lookups:
            return {}
        if self._coming is None or self._coming[0] is not lookups:
            self.fetch(lookups)
        assert self._coming is not None
        fetched, self._coming = self.agree(lookups).take(self._coming[1]), None
        if torch.is_grad_enabled():
            self._lookups = lookups
            self._fetched = {dim: rows.requires_grad_() for dim, rows in fetched.items()}
        return {dim: _look_up_fetched(fetched[dim], lookup) for dim, lookup in lookups.items()}

    @property
    def reached(self) -> list[bool]:
        """By dimension, whether the latest backward pass reached the table on this rank."""
        return [rows.grad is not None for rows in self._fetched.values()]

    def gradients(self) -> dict[int, Tensor]:
        """By dimension the gradients of the latest batch's distinct rows, zeros where it did not reach: (U, d) each."""
        fetched, self._fetched = self._fetched, {}
        return {
            dim: torch.zeros_like(rows) if rows.grad is None else rows.grad for dim, rows in fetched.items()
        }


def draw_rows(shards: RowShards, rank: int, dim: int, untrained: Ints, seed: int, name: str) -> Tensor:
    """Draw a rank's rows of a table: (size, d). No more than these, and a bucket besides them, is in memory.

    Args:
        shards: how the table's rows are spread.
        rank: whose rows.
        dim: d.
        untrained: table rows of missing and unknown values, which begin at zero.
        seed: of the training.
        name: of the set of tables, such as `shared`.
    """
    buckets = shards.buckets(rank)
    seeds = np.random.SeedSequence([seed, dim, *name.encode()]).generate_state(BUCKETS)
    weight = torch.zeros(shards.depth, len(buckets), dim)
    for n, bucket in enumerate(buckets):
        count = len(range(bucket, shards.rows, BUCKETS))
        generator = torch.Generator().manual_seed(int(seeds[bucket]))
        weight[:count, n] = torch.empty(count, dim).normal_(std=SCALE, generator=generator)
    position, start = shards.positions(untrained), shards.first_position
    owned = position[(position >= start[rank]) & (position < start[rank + 1])] - start[rank]
    rows = weight.view(-1, dim)
    rows[torch.from_numpy(owned)] = 0
    return rows


@dataclass(frozen=True)
class TableBuilder:
    """How the tables of a model are made."""

    seed: int = 0
    """Of the first rows, which are the same however many ranks there are."""
    ranks: Ranks = field(default_factory=Ranks)
    sharded: bool = False
    """Whether several ranks share the rows of each table, rather than having all of them each."""
    empty: bool = False
    """Whether the tables have no rows here: a model has its networks alone then."""

    def build(self, layout: Layout, names: Iterable[str]) -> dict[str, Tables]:
        """Make the sets of tables of some names."""
        if self.empty:
            rows = {dim: torch.empty(0, dim) for dim in layout.table_rows}
            return {name: Tables(rows, buckets=range(0)) for name in names}
        if self.ranks.alone:
            return {name: Tables(self._whole(layout, name)) for name in names}
        if not self.sharded:
            union = LatestBatches(RowUnion, self.ranks)
            return {
                name: ReplicatedTables(self._whole(layout, name), range(BUCKETS), union) for name in names
            }
        exchange = LatestBatches(RowExchange, self.ranks)
        shards = {dim: RowShards(rows, self.ranks.world) for dim, rows in layout.table_rows.items()}
        buckets = RowShards(0, self.ranks.world).buckets(self.ranks.rank)
        return {
            name: ShardedTables(self._draw(layout, name, shards, self.ranks.rank), buckets, exchange)
            for name in names
        }

    def _whole(self, layout: Layout, name: str) -> dict[int, Tensor]:
        shards = {dim: RowShards(rows) for dim, rows in layout.table_rows.items()}
        drawn = self._draw(layout, name, shards, rank=0)
        return {dim: rows[: layout.table_rows[dim]] for dim, rows in drawn.items()}

    def _draw(self, layout: Layout, name: str, shards: dict[int, RowShards], rank: int) -> dict[int, Tensor]:
        untrained = layout.untrained()
        return {
            dim: draw_rows(shard, rank, dim, untrained[dim], self.seed, name) for dim, shard in shards.items()
        }
