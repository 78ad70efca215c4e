"""The rows of a table of items that a newer row of the same item replaces, found by tasks in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corank.core.arrays import read_array, write_array
from corank.core.errors import DataError
from corank.core.types import Longs, Mask
from corank.data.as_of import newest_rows
from corank.data.packing.spread import SpreadRows, read_partition
from corank.data.packing.workspace import write_beside
from corank.data.row_ranges import RowRange
from corank.data.tables import VALID_FROM, Table
from corank.engine.base import Engine
from corank.features.row_columns import FROM, ID, ROW

PARTITION = 2**20
"""Rows of a partition, about. It is of whole items."""


@dataclass(frozen=True)
class OlderRows:
    """The rows that are not their item's newest, by their number in the table."""

    paths: tuple[Path, ...]
    """Files of ascending numbers, of the partitions that have some."""
    count: int

    def mark_newest(self, first: int, rows: int) -> Mask:
        """Mark, among so many rows from a first one, those that are their item's newest: (rows,)."""
        newest = np.ones(rows, dtype=bool)
        for path in self.paths:
            older = read_array(path, np.int64, (None,))
            begin, end = np.searchsorted(older, [first, first + rows])
            newest[older[begin:end] - first] = False
        return newest


@dataclass(frozen=True)
class FindOlderRows:
    """Finds the older rows of a partition; its number is the task."""

    name: str
    """Of the table, for errors."""
    key: str
    files: Sequence[Path]
    """Those of `SpreadRows`."""
    folder: Path

    def path(self, n: int) -> Path:
        """Return where the numbers of a partition's older rows are written."""
        return self.folder / f"{n:06d}.npy"

    def __call__(self, n: int) -> int:
        """Write the numbers. Returns how many there are. Raises DataError if an item has two rows of one time."""
        rows = read_partition(self.files, n)
        if rows[ID].n_unique() == len(rows):
            return 0
        twice = rows.filter(rows.select(ID, FROM).is_duplicated())
        if len(twice):
            raise DataError(
                f"{self.name}: {self.key}={twice[ID].min()!r} is in several rows; keep one, or tell them apart by a "
                f"column '{VALID_FROM}'"
            )
        newest = newest_rows(rows)[ROW]
        older: Longs = np.setdiff1d(rows[ROW].to_numpy(), newest.to_numpy(), assume_unique=True)
        with write_beside(self.path(n)) as partial:
            write_array(partial, np.sort(older))
        return len(older)


def find_older_rows(
    table: Table, key: str, ranges: Sequence[RowRange], engine: Engine, folder: Path
) -> OlderRows:
    """Find the rows that are not their item's newest.

    Args:
        table: with a row of each item, or several that `valid_from` distinguishes.
        key: its column of ids.
        ranges: the whole table.
        engine: runs the tasks.
        folder: receives files.

    Raises DataError: an id is null, or two rows of one item are of the same time.
    """
    nulls = table.collect(table.frame.select(table.key(key).null_count())).item()
    if nulls:
        raise DataError(f"{table.name}: column '{key}' is null in {nulls:,} rows")
    partitions = max(1, -(-sum(task.rows for task in ranges) // PARTITION))
    columns = [table.key(key).alias(ID), table.valid_from().alias(FROM)]
    spread = SpreadRows(table, columns, [ID], partitions, folder / "ids")
    files = [folder / "ids" / name for names in engine.run(spread, ranges) for name in names]
    find = FindOlderRows(table.name, key, files, folder / "older")
    counts = engine.run(find, range(partitions))
    for path in files:
        path.unlink(missing_ok=True)
    return OlderRows(tuple(find.path(n) for n, count in enumerate(counts) if count), sum(counts))
