"""Makes the sets of tables of a model: whole, replicated or sharded."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from corank.distributed.ranks import Ranks, RowShards
from corank.features.input_layout import Layout
from corank.models.tables.embedding import Tables
from corank.models.tables.initial_rows import draw_rows
from corank.models.tables.row_exchange import RowExchange, RowUnion
from corank.models.tables.sharded import LatestBatch, ReplicatedTables, ShardedTables


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
            union = LatestBatch(RowUnion, self.ranks)
            return {name: ReplicatedTables(self._whole(layout, name), union) for name in names}
        exchange = LatestBatch(RowExchange, self.ranks)
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
