"""A table whose rows lie in parts, each the rows of some buckets: as ranks hold it, and as they write it.

Letters: N rows of the whole table · p depth, the rows of a bucket · b buckets of a part · d dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from corank.distributed.row_shards import BUCKETS, RowShards

ALL_BUCKETS = range(BUCKETS)
"""The buckets of a rank that holds whole tables."""
PIECE_BYTES = 1 << 24
"""Bytes of a table in memory at once where it is read piece by piece."""


@dataclass(frozen=True)
class TableRows:
    """Which rows of a table a tensor holds, along its first dimension: those of a range of buckets.

    They are in the order of `RowShards`: (p, b) as (p · b,). What stands for no row of the table, at the end of a
    bucket, may be missing where the buckets are all 256.
    """

    rows: int
    """N."""
    buckets: range = ALL_BUCKETS

    @property
    def whole(self) -> bool:
        """Whether the tensor holds the table's rows in their own order."""
        return self.buckets == ALL_BUCKETS

    @property
    def size(self) -> int:
        """The rows of the tensor, those that stand for no row of the table with them unless it is whole."""
        return self.rows if self.whole else RowShards(self.rows).depth * len(self.buckets)


@dataclass(frozen=True)
class TablePart:
    """A tensor that holds some rows of a table."""

    buckets: range
    values: Tensor
    """(p · b, ...), or (N, ...) if the buckets are all 256."""

    def blocks(self, rows: int) -> Iterator[tuple[int, int, Tensor]]:
        """The rectangles that the part's rows of a table of N make up: first row of a bucket, first bucket, values."""
        full, rest, width = rows // BUCKETS, rows % BUCKETS, len(self.buckets)
        inner = self.values.shape[1:]
        yield 0, self.buckets.start, self.values[: full * width].view(full, width, *inner)
        tail_width = min(max(rest - self.buckets.start, 0), width)
        yield full, self.buckets.start, self.values[full * width :][:tail_width].view(1, tail_width, *inner)


@dataclass(frozen=True)
class SplitTable:
    """A table of N rows in parts; together they need not hold all of its rows."""

    rows: int
    parts: tuple[TablePart, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole table: (N, ...)."""
        return (self.rows, *self.parts[0].values.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers."""
        return self.parts[0].values.dtype

    def take(self, buckets: range) -> Tensor:
        """Copy the rows of some buckets: (p · b, ...), zero where they stand for no row of the table."""
        depth = RowShards(self.rows).depth
        return self._fill(range(depth), buckets).view(depth * len(buckets), *self.shape[1:])

    def gather(self, rows: Tensor) -> Tensor:
        """Copy rows by their numbers in the table: (N,) → (N, ...); zero for those of no part."""
        values = torch.zeros(len(rows), *self.shape[1:], dtype=self.dtype)
        bucket, depth = rows % BUCKETS, rows // BUCKETS
        for part in self.parts:
            here = torch.nonzero((bucket >= part.buckets.start) & (bucket < part.buckets.stop))[:, 0]
            positions = depth[here] * len(part.buckets) + bucket[here] - part.buckets.start
            values[here] = part.values[positions]
        return values

    def whole(self) -> Tensor:
        """The whole table in the order of its rows: (N, ...); not copied if one part holds it."""
        if self._undivided:
            return self.parts[0].values[: self.rows]
        return self.take(ALL_BUCKETS)[: self.rows]

    def pieces(self) -> Iterator[Tensor]:
        """The whole table in the order of its rows, some consecutive rows at a time: (·, ...)."""
        depth, layer = RowShards(self.rows).depth, BUCKETS * self.dtype.itemsize
        for size in self.shape[1:]:
            layer *= size
        step = max(1, PIECE_BYTES // max(1, layer))
        for first in range(0, depth, step):
            some = range(first, min(first + step, depth))
            begin, end = some.start * BUCKETS, min(some.stop * BUCKETS, self.rows)
            if self._undivided:
                yield self.parts[0].values[begin:end]
            else:
                filled = self._fill(some, ALL_BUCKETS)
                yield filled.view(len(some) * BUCKETS, *self.shape[1:])[: end - begin]

    @property
    def _undivided(self) -> bool:
        return len(self.parts) == 1 and self.parts[0].buckets == ALL_BUCKETS

    def _fill(self, layers: range, buckets: range) -> Tensor:
        """Some rows of some buckets: (layers, buckets, ...)."""
        target = torch.zeros(len(layers), len(buckets), *self.shape[1:], dtype=self.dtype)
        for part in self.parts:
            for first, bucket, values in part.blocks(self.rows):
                deep = _overlap(layers, range(first, first + values.shape[0]))
                wide = _overlap(buckets, range(bucket, bucket + values.shape[1]))
                target[_within(deep, layers.start), _within(wide, buckets.start)] = values[
                    _within(deep, first), _within(wide, bucket)
                ]
        return target


def _overlap(a: range, b: range) -> range:
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))


def _within(some: range, start: int) -> slice:
    return slice(some.start - start, some.stop - start)
