"""A table cut into ranges of rows, of which a task reads one in bounded memory."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import polars as pl

from corank.data.tables import Table, scan_files
from corank.features.row_columns import ROW

BATCH = 2**19
"""Rows read at a time."""


@dataclass(frozen=True)
class RowRange:
    """Some rows of a table, one after another."""

    paths: tuple[str, ...]
    """The files that they are in."""
    skip: int
    """Rows of the first file that come before."""
    first: int
    """The number of the first row: its position in all files of the table, whatever the ranges."""
    rows: int
    """How many they are in the files, before the table explodes or leaves out any."""

    def __str__(self) -> str:
        return f"{self.rows:,} rows from row {self.first:,}, in {', '.join(self.paths)}"

    def read(self, table: Table, columns: list[pl.Expr]) -> Iterator[pl.DataFrame]:
        """Read columns, and the number of each row as ROW, a batch at a time; one batch at least.

        Args:
            table: that of the range.
            columns: expressions over the table, each of its own name.

        Raises:
            DataError: a file cannot be read.
        """
        frame = scan_files(table.format, list(self.paths))
        if table.format != "csv":
            frame = frame.slice(self.skip, self.rows)
        frame = frame.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.Int64) + self.first)
        for step in [*([table.explode] if table.explode else []), *table.steps]:
            frame = step(frame)
        chosen = frame.select(ROW, *columns)
        if self.rows * table.per_row <= BATCH:
            yield table.collect(chosen)
        else:
            yield from table.collect_batches(chosen, BATCH)


def cut_table(table: Table, size: int | None = None) -> list[RowRange]:
    """Cut a table into ranges of about `size` rows, BATCH by default; one range at least.

    A CSV file must be read from its begin, and what type its columns have depends on all files: a table of CSV files
    is one range.
    """
    ends = list(accumulate(table.row_counts))
    size = max((size or BATCH) // table.per_row, 1)
    if table.format == "csv":
        return [RowRange(table.paths, 0, 0, ends[-1])]
    ranges = []
    for first in range(0, max(ends[-1], 1), size):
        end = min(first + size, ends[-1])
        files = slice(bisect_right(ends[:-1], first), bisect_right(ends[:-1], max(end - 1, 0)) + 1)
        skip = first - (ends[files.start - 1] if files.start else 0)
        ranges.append(RowRange(table.paths[files], skip, first, end - first))
    return ranges
