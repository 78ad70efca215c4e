"""How ranks share the rows of a table.

Row r of a table lies in bucket r mod 256, and a rank has a contiguous range of buckets. Frequent values have
neighbouring rows, so every rank gets its part of them. Seen as (depth, 256, d), row r at [r // 256, r mod 256], a table
is cut along its second axis, so that a shard is a rectangle whatever the number of ranks.

Letters: W ranks · N rows · d dimension.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from corank.core.types import Ints, Longs

BUCKETS = 256
"""Buckets of a table; no more ranks than that can share one."""
ALL_BUCKETS = range(BUCKETS)
"""The buckets of a rank that holds whole tables."""


@dataclass(frozen=True)
class RowShards:
    """The rows of one table, spread over W ranks.

    A rank's shard is a matrix of `size(rank)` rows: rows (depth, width, d) as (depth · width, d). Its last rows may
    stand for no row of the table; they are zero and nobody reads them.

    Example:
        shards = RowShards(rows=1000, world=2)
        shards.size(0)  # 4 rows deep, of 128 buckets: 512
    """

    rows: int
    """Rows of the whole table."""
    world: int = 1

    @property
    def depth(self) -> int:
        """Rows of a bucket."""
        return -(-self.rows // BUCKETS)

    @cached_property
    def first_bucket(self) -> Longs:
        """The first bucket of each rank, and the end: (W + 1,). Ranges are as long as `torch.chunk` makes them."""
        width = -(-BUCKETS // self.world)
        return np.minimum(np.arange(self.world + 1) * width, BUCKETS)

    def buckets(self, rank: int) -> range:
        """The buckets of a rank."""
        return range(int(self.first_bucket[rank]), int(self.first_bucket[rank + 1]))

    def size(self, rank: int) -> int:
        """The rows of a rank's shard."""
        return self.depth * len(self.buckets(rank))

    def rows_of(self, rank: int) -> Longs:
        """The table row that each row of a rank's shard stands for; `rows` or above for none: (size,)."""
        buckets = self.buckets(rank)
        return (np.arange(self.depth)[:, None] * BUCKETS + np.arange(buckets.start, buckets.stop)).ravel()

    @cached_property
    def first_position(self) -> Longs:
        """Where each rank's shard begins if all shards are laid end to end, and the end: (W + 1,)."""
        return self.first_bucket * self.depth

    def positions(self, rows: Ints) -> Ints:
        """Where table rows lie if all shards are laid end to end: (N,) → (N,)."""
        start, width = self._by_bucket
        bucket = rows & (BUCKETS - 1)
        positions: Ints = start[bucket] + (rows >> (BUCKETS.bit_length() - 1)) * width[bucket]
        return positions

    def by_rank(self, positions: Ints) -> tuple[Ints, tuple[int, ...]]:
        """Split ascending positions by rank.

        Returns:
            For each the row of its rank's shard: (N,); and how many each rank has: W.
        """
        ends = np.searchsorted(positions, self.first_position)
        counts = np.diff(ends)
        rows: Ints = positions - np.repeat(self.first_position[:-1], counts).astype(np.int32)
        return rows, tuple(counts.tolist())

    @cached_property
    def _by_bucket(self) -> tuple[Ints, Ints]:
        """For each bucket the position of its first row, and how far apart its rows are: (256,) each."""
        widths = np.diff(self.first_bucket)
        start = np.arange(BUCKETS) - np.repeat(self.first_bucket[:-1], widths)
        start += np.repeat(self.first_position[:-1], widths)
        return start.astype(np.int32), np.repeat(widths, widths).astype(np.int32)
