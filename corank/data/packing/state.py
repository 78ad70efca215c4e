"""The counts of values that packed data keep for later packings: a file for each feature with a vocabulary.

The users and items of a packing, and when each was seen last.

Past numbers of candidates by time, against which the number of new rows is judged.

They are counted by minutes, since periods begin at one in every time zone, and later packings keep them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from corank.core.arrays import read_array, read_frame, write_array, write_frame
from corank.core.errors import DataError
from corank.core.time import DAY, MILLISECOND, NEVER
from corank.core.types import Longs
from corank.features.schema import Schema
from corank.features.training_values import list_keep_days

STATE = "state"
"""The folder within packed data."""
COUNTS = "counts"
"""The folder of counts within STATE."""


def counts_file(packed: Path, schema: Schema, name: str) -> Path:
    """Return the file of a feature's counts, in packed data."""
    return packed / STATE / COUNTS / f"{list(schema.features).index(name)}.arrow"


def write_counts_of_values(packed: Path, schema: Schema, tallies: Mapping[str, pl.DataFrame]) -> None:
    """Write the counts of features' values: `value`, `count`, `seen` (ms UTC)."""
    (packed / STATE / COUNTS).mkdir(parents=True, exist_ok=True)
    for name, tally in tallies.items():
        write_frame(counts_file(packed, schema, name), tally.rechunk())


def read_counts_of_values(packed: Path, schema: Schema, name: str) -> pl.DataFrame | None:
    """Map the counts of a feature's values; None if it has no vocabulary. Raises DataError if they are damaged."""
    path = counts_file(packed, schema, name)
    return read_frame(path) if path.is_file() else None


def write_ids(packed: Path, part: str, ids: pl.DataFrame) -> None:
    """Write the ids of a `part`, users or items: `value`, ascending, and `seen` (ms UTC)."""
    (packed / STATE).mkdir(exist_ok=True)
    write_frame(packed / STATE / f"{part}.arrow", ids.rechunk())


def read_ids(packed: Path, part: str) -> pl.DataFrame:
    """Map what `write_ids` wrote. Raises DataError if it is damaged."""
    return read_frame(packed / STATE / f"{part}.arrow")


def keep_from(schema: Schema, column: str, until: int) -> int:
    """Return since when an id must have been seen to be kept, ms UTC; NEVER if ids are kept for ever.

    That is the longest `keep_days` of the features over its column.

    Args:
        schema: the features.
        column: of the id.
        until: when training ends, ms UTC.
    """
    features = [f for n, f in schema.features.items() if f.as_column and schema.column(n) == column]
    days = list_keep_days(features)
    kept = [n for n in days if n is not None]
    return NEVER if not days or len(kept) < len(days) else until - max(kept) * (DAY // MILLISECOND)


def join_ids(new: pl.DataFrame, earlier: pl.DataFrame, since: int, column: str) -> pl.DataFrame:
    """Join ids with those of an earlier packing that were seen since a time, ms UTC; ascending.

    Raises DataError if the column `column` was of another type then.
    """
    old = earlier.filter(pl.col("seen") >= since)
    if len(old) and old["value"].dtype != new["value"].dtype:
        raise DataError(
            f"data.log: column '{column}' is {new['value'].dtype}; it was {old['value'].dtype} in the earlier packing"
        )
    both = pl.concat([new, old]) if len(old) else new
    return both.group_by("value").agg(pl.col("seen").max()).sort("value")


FILE = "minutes.npy"
"""Within STATE."""
MINUTE = 60_000
"""ms."""
KEPT = 8 * (DAY // MILLISECOND) // MINUTE
"""Minutes that packed data keep: of the same hours of seven days before one that follows."""
LONGEST = 2**16
"""Minutes before the log's last row that are counted, at most: its first may be of 1970."""
WHOLE = 7 / 8
"""Share of the minutes of a period that are known at least, if it is compared with: the log may begin or end within
the others, but has few rows there."""


@dataclass(frozen=True)
class KnownRows:
    """Candidates by minute."""

    counts: Mapping[int, int]
    """By the number of the minute since 1970 UTC; missing ones are unknown."""

    @classmethod
    def count(
        cls, shards: Iterable[tuple[Longs, Longs]], bounds: Iterable[tuple[int, int]], last: int
    ) -> Self:
        """Count the candidates of packed data.

        Args:
            shards: the time of each request, ms UTC, and its candidates, of the shards of all splits.
            bounds: when each split begins and ends, ms UTC.
            last: the time of the log's last candidate.
        """
        counted: dict[int, int] = {}
        for times, sizes in shards:
            minutes, place = np.unique(times // MINUTE, return_inverse=True)
            candidates = np.bincount(place, sizes, len(minutes)).astype(np.int64)
            for minute, count in zip(minutes.tolist(), candidates.tolist(), strict=True):
                counted[minute] = counted.get(minute, 0) + count
        known: dict[int, int] = {}
        for begin, end in bounds:
            first = max(begin // MINUTE, min(counted, default=0), last // MINUTE - LONGEST)
            for minute in range(first, min(-(-end // MINUTE), last // MINUTE + 1)):
                known[minute] = counted.get(minute, 0)
        return cls(known)

    def after(self, earlier: Self) -> Self:
        """Add the counts of an earlier packing, which win: it read all rows; these may begin within a minute."""
        return type(self)({**self.counts, **earlier.counts})

    def between(self, begin: int, end: int) -> int | None:
        """The candidates of a period, ms UTC, to the next minute; None unless nearly all of it is known."""
        minutes = range(round(begin / MINUTE), round(end / MINUTE))
        counts = [self.counts[minute] for minute in minutes if minute in self.counts]
        return sum(counts) if counts and len(counts) >= WHOLE * len(minutes) else None

    def write(self, packed: Path) -> None:
        """Write the newest into packed data."""
        newest = sorted(self.counts.items())[-KEPT:]
        write_array(packed / STATE / FILE, np.array(newest, dtype=np.int64).reshape(-1, 2))

    @classmethod
    def read(cls, packed: Path) -> Self:
        """Read what `write` wrote. Raises DataError."""
        return cls(dict(read_array(packed / STATE / FILE, np.int64, (None, 2)).tolist()))
