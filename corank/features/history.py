"""Users' events, point in time: what a request may know of its user's past."""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import ConfigError
from corank.core.files import appending, read_array, write_array
from corank.core.types import Floats, Ints, Longs

AT_ONCE = 2**24
"""Events sorted at a time, about; bounds memory."""

OLDEST = 60
"""Half-lives after which an event's weight falls no further: a list of old events only still has a mean."""

_DAY = timedelta(days=1)
_MS = timedelta(milliseconds=1)


def bisect(times: Longs, low: Longs, high: Longs, cut: Longs) -> Longs:
    """How many of times[low:high], which ascend, are before `cut`, plus `low`; for N ranges at once: (N,).

    A search of each range by itself, so that `times` can be a memory map larger than memory.
    """
    low, high = low.copy(), high.copy()
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) // 2
        before = times[middle] < cut[open_]
        low[open_[before]] = middle[before] + 1
        high[open_[~before]] = middle[~before]
    return low


def floored(times: Longs, every: timedelta, timezone: str) -> Longs:
    """Times (N,) in ms UTC, each back to the last multiple of `every`, counted from midnight in `timezone`.

    Several days are counted from 1970-01-01 there; ConfigError for more than a day that is not whole days.
    """
    if every > _DAY and every % _DAY:
        raise ConfigError(f"every: more than a day must be whole days; received {every}")
    local = (
        pl.Series(times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    )
    days = local.dt.date().cast(pl.Int32).to_numpy()
    days = days - days % max(every // _DAY, 1)
    distinct, place = np.unique(days, return_inverse=True)
    midnight = np.array([_midnight(int(day), timezone) for day in distinct], dtype=np.int64)[place]
    step = every // _MS
    return midnight if every >= _DAY else midnight + (times - midnight) // step * step


def _midnight(day: int, timezone: str) -> int:
    """Where a day (counted from 1970-01-01) begins, in ms UTC; after the gap where a zone skips midnight."""
    begin = datetime.combine(date(1970, 1, 1) + timedelta(days=day), time(), ZoneInfo(timezone))
    return round(begin.timestamp() * 1000)


@dataclass(frozen=True)
class Events:
    """What users did: E events, user by user, the oldest first; at equal times in the order of the log."""

    items: Ints
    """Codes of the item id feature: (E,)."""
    times: Longs
    """ms since 1970 UTC: (E,)."""
    offsets: Longs
    """Where each user's events begin, and the end: (U + 1,)."""
    ordinals: Ints
    """The place of each event's item among the distinct items: (E,)."""

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """Memory-mapped. Raises DataError if a part is missing or damaged."""
        parts = ("items", "times", "offsets", "ordinals")
        return cls(*(read_array(folder / f"{name}.{part}.npy") for part in parts))

    @staticmethod
    def write(folder: Path, name: str, pieces: list[Path], users: int) -> None:
        """Sort pieces into a folder: Arrow files of `user` index, `time`, `item` code, `ordinal`, `row` of the log."""
        found = pl.scan_ipc(pieces)
        counts = found.group_by("user").len().collect(engine="streaming")
        offsets = np.zeros(users + 1, dtype=np.int64)
        offsets[counts["user"].to_numpy() + 1] = counts["len"].to_numpy()
        offsets = np.cumsum(offsets)
        write_array(folder / f"{name}.offsets.npy", offsets)
        bounds = np.unique(np.searchsorted(offsets, np.arange(0, offsets[-1] + AT_ONCE, AT_ONCE)))
        bounds = np.unique(np.append(np.minimum(bounds, users), users))
        size = (int(offsets[-1]),)
        with (
            appending(folder / f"{name}.items.npy", size, np.int32) as items,
            appending(folder / f"{name}.times.npy", size, np.int64) as times,
            appending(folder / f"{name}.ordinals.npy", size, np.int32) as ordinals,
        ):
            for first, end in pairwise(bounds.tolist()):
                some = found.filter(pl.col("user").is_between(first, end, closed="left"))
                part = some.collect(engine="streaming").sort("user", "time", "row")
                items(part["item"].to_numpy())
                times(part["time"].to_numpy())
                ordinals(part["ordinal"].to_numpy())

    def slices(
        self,
        users: NDArray[np.integer],
        request_times: Longs,
        lag: timedelta,
        every: timedelta | None,
        timezone: str,
        last: int,
    ) -> tuple[Longs, Ints]:
        """Start and length of the newest `last` events of each request's user before its cut: (R,), (R,).

        The cut is the request's time, or with `every` the last multiple of it until then, less `lag`; an
        event at the cut is not before it. `users` are indices, request times ms UTC.
        """
        cut = request_times if every is None else floored(request_times, every, timezone)
        first = self.offsets[users]
        end = bisect(self.times, first, self.offsets[users + 1], cut - lag // _MS)
        start = np.maximum(first, end - last)
        return start, (end - start).astype(np.int32)


def recency(age: Longs, half_life: timedelta) -> Floats:
    """2 to the power of −age/half_life, of events `age` ms before their request: (N,)."""
    lives: Floats = np.minimum(age / (half_life / _MS), OLDEST).astype(np.float32)
    return np.exp2(-lives)
