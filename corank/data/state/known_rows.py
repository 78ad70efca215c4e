"""Past numbers of candidates by time, against which the number of new rows is judged.

They are counted by quarters of an hour, since periods begin at one in every time zone, and later packings keep them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from corank.core.arrays import read_array, write_array
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Longs
from corank.data.state.value_counts import STATE

FILE = "rows.npy"
"""Within STATE."""
QUARTER = 900_000
"""ms."""
KEPT = 8 * (DAY // MILLISECOND) // QUARTER
"""Quarters that packed data keep: of the same hours of seven days before one that follows."""
LONGEST = 2**16
"""Quarters before the log's last row that are counted, at most: its first may be of 1970."""
WHOLE = 7 / 8
"""Share of the quarters of a period that are known at least, if it is compared with: the log may begin or end within
the others, but has few rows there."""


@dataclass(frozen=True)
class KnownRows:
    """Candidates by quarter of an hour."""

    counts: Mapping[int, int]
    """By the number of the quarter since 1970 UTC; missing ones are unknown."""

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
            quarters, place = np.unique(times // QUARTER, return_inverse=True)
            candidates = np.bincount(place, sizes, len(quarters)).astype(np.int64)
            for quarter, count in zip(quarters.tolist(), candidates.tolist(), strict=True):
                counted[quarter] = counted.get(quarter, 0) + count
        known: dict[int, int] = {}
        for begin, end in bounds:
            first = max(begin // QUARTER, min(counted, default=0), last // QUARTER - LONGEST)
            for quarter in range(first, min(-(-end // QUARTER), last // QUARTER + 1)):
                known[quarter] = counted.get(quarter, 0)
        return cls(known)

    def after(self, earlier: Self) -> Self:
        """Add the counts of an earlier packing, which win: it read all rows; these may begin within a quarter."""
        return type(self)({**self.counts, **earlier.counts})

    def between(self, begin: int, end: int) -> int | None:
        """The candidates of a period, ms UTC, to the next quarter of an hour; None unless nearly all of it is known."""
        quarters = range(round(begin / QUARTER), round(end / QUARTER))
        counts = [self.counts[quarter] for quarter in quarters if quarter in self.counts]
        return sum(counts) if counts and len(counts) >= WHOLE * len(quarters) else None

    def write(self, packed: Path) -> None:
        """Write the newest into packed data."""
        newest = sorted(self.counts.items())[-KEPT:]
        write_array(packed / STATE / FILE, np.array(newest, dtype=np.int64).reshape(-1, 2))

    @classmethod
    def read(cls, packed: Path) -> Self:
        """Read what `write` wrote; nothing is known of packed data of before it was written. Raises DataError."""
        path = packed / STATE / FILE
        if not path.exists():
            return cls({})
        rows = read_array(path, np.int64, (None, 2))
        return cls(dict(rows.tolist()))
