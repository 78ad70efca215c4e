"""A training state or trained weights: named tensors, of which tables may lie in parts, and facts.

Files are in the format of safetensors, which holds no code (checkpoint_files.py). Tensors of an open file are mapped
into memory: what is not read takes none. A table in parts has the rows of some buckets in each, as ranks hold and
write it.

Letters: N rows of the whole table · p depth, the rows of a bucket · b buckets of a part · d dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corank.core.arrays import PIECE_BYTES
from corank.core.errors import CheckpointError
from corank.distributed.row_shards import ALL_BUCKETS, BUCKETS, RowShards


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


def map_tensors(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map the tensors of an open file, and read the texts of its header. What is written to them stays in memory.

    They stay what they are if the file is replaced or removed by another. Raises OSError, SafetensorError.
    """
    # by its descriptor: the reader opens a path several times, and a training may replace the file in between
    with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as opened:
        names = opened.keys()
        return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and facts."""

    tensors: dict[str, Tensor]
    """Those that are whole. If they were loaded, they are mapped from the file: copy what is to stay."""
    facts: dict[str, Any]
    """Everything that is no tensor, as JSON values."""
    tables: dict[str, SplitTable] = field(default_factory=dict)
    """Tensors with a row for each row of a table, in parts."""

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self.tensors | self.tables)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor."""
        return self.tables[name].shape if name in self.tables else tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor's numbers."""
        return self.tables[name].dtype if name in self.tables else self.tensors[name].dtype

    def whole(self, name: str) -> Tensor:
        """A whole tensor; not copied unless it is in several parts."""
        return self.tables[name].whole() if name in self.tables else self.tensors[name]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A whole tensor, some consecutive rows at a time."""
        return self.tables[name].pieces() if name in self.tables else iter([self.tensors[name]])

    def take(self, name: str, rows: TableRows) -> Tensor:
        """Copy the rows of a table that a tensor is to hold: (rows.size, ...)."""
        table = self.tables.get(name)
        if table is None:
            table = SplitTable(rows.rows, (TablePart(ALL_BUCKETS, self.tensors[name]),))
        return table.take(rows.buckets)[: rows.size]

    def gather(self, name: str, rows: Tensor) -> Tensor:
        """Copy rows of a table by their numbers: (N,) → (N, ...). All of the table must have been loaded."""
        table = self.tables.get(name)
        return self.tensors[name].index_select(0, rows) if table is None else table.gather(rows)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise CheckpointError, which names a checkpoint's path, for an error of the block that the checkpoint explains.

    Its checksums fit: what the block cannot take is of another release, or was changed and sealed again.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(f"{path}: damaged, or of another release ({reason}); train again") from error
