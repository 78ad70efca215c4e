"""Digests of columns by their values: the same however the files are written, cut or compressed.

A column is hashed in blocks of rows, so that several processes share the work, and memory is that of a block.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from corank.core.settings import Settings
from corank.data.row_ranges import RowRange, cut_table
from corank.data.tables import Table

BLOCK = 2**19
"""Rows that are hashed at once. Digests depend on it."""


class TableContent(Settings):
    """What some columns of a table hold."""

    rows: int
    columns: dict[str, str]
    """Column → digest of its type and its values, in the order of the rows."""


Run = Callable[["DigestBlocks", Sequence[RowRange]], Sequence[Sequence[Any]]]
"""Runs the tasks of `digest_columns`: a function over ranges of rows."""


@dataclass(frozen=True)
class DigestBlocks:
    """Hashes columns of a table in a range of its rows."""

    table: Table
    columns: Sequence[str]

    def __call__(self, rows: RowRange) -> list[list[Any]]:
        """Hash the blocks of a range: of each how many rows it has, and a digest a column. Raises DataError."""
        return [
            [len(block), *(_digest(block[name]) for name in self.columns)] for block in self._blocks(rows)
        ]

    def _blocks(self, rows: RowRange) -> Iterator[pl.DataFrame]:
        """Read a range BLOCK rows at a time, however they come; those of a CSV file come as they like."""
        held: list[pl.DataFrame] = []
        for batch in rows.read(self.table, [pl.col(name) for name in self.columns]):
            held.append(batch)
            while sum(map(len, held)) >= BLOCK:
                joined = pl.concat(held)
                yield joined[:BLOCK]
                held = [joined[BLOCK:]]
        rest = pl.concat(held)
        if len(rest):
            yield rest


def digest_columns(table: Table, columns: Sequence[str], run: Run) -> TableContent:
    """Hash columns of a table.

    Args:
        table: as its files are, without steps.
        columns: some of its columns.
        run: runs the tasks, each of which hashes a range of rows.

    Raises DataError if the table cannot be read.
    """
    blocks = [block for part in run(DigestBlocks(table, columns), cut_table(table, BLOCK)) for block in part]
    found = {}
    for n, name in enumerate(columns, start=1):
        text = "\n".join([str(table.types[name]), *(block[n] for block in blocks)])
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return TableContent(rows=sum(block[0] for block in blocks), columns=found)


def _digest(values: pl.Series) -> str:
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(str(part.nbytes).encode())
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _parts(values: pl.Series) -> Iterator[NDArray[Any]]:
    """Take values apart into arrays that tell them from others of their type; what stands under a null is not told."""
    kind = values.dtype
    if values.null_count():
        yield np.packbits(values.is_null().to_numpy())
    if isinstance(kind, pl.Array):
        values, kind = values.arr.to_list(), pl.List(kind.inner)
    if isinstance(kind, pl.List):
        lists = values.rechunk().to_arrow()
        yield values.list.len().fill_null(0).to_numpy()
        yield from _parts(pl.Series("", lists.flatten(), dtype=kind.inner))
    elif isinstance(kind, pl.Struct):
        for name in values.struct.fields:
            yield from _parts(values.struct.field(name))
    elif (
        kind.is_temporal()
        or kind.is_float()
        or kind == pl.Boolean
        # numpy has no whole numbers of 128 bits
        or (kind.is_integer() and kind not in (pl.Int128, pl.UInt128))
    ):
        yield _numbers(values.to_physical())
    elif kind != pl.Null:
        yield from _bytes(values if kind == pl.Binary else values.cast(pl.String))


def _numbers(values: pl.Series) -> NDArray[Any]:
    """Numbers; whole ones in the smallest signed type that holds all, since there are fewer bytes to hash."""
    values = values.fill_null(False if values.dtype == pl.Boolean else 0)
    if values.dtype.is_integer() and len(values):
        least, most = int(values.min()), int(values.max())  # type: ignore[arg-type]
        for bits, kind in ((8, pl.Int8), (16, pl.Int16), (32, pl.Int32)):
            if -(2 ** (bits - 1)) <= least and most < 2 ** (bits - 1):
                return values.cast(kind).to_numpy()
    return values.to_numpy()


def _bytes(values: pl.Series) -> Iterator[NDArray[Any]]:
    """The bytes of texts, and where each ends."""
    array = values.fill_null(b"" if values.dtype == pl.Binary else "").rechunk().to_arrow()
    whole = pa.concat_arrays([array.cast(pa.large_binary())])
    _, offsets, data = whole.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[whole.offset : whole.offset + len(whole) + 1]
    yield ends - ends[0]
    if data is not None:
        yield np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
