"""Users' events, point in time: what a request may know of its user's past."""

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.files import appending, read_array, write_array
from corank.core.ordering import bisect_ranges
from corank.core.time import MILLISECOND, floor_times
from corank.core.types import Floats, Ints, Longs

AT_ONCE = 2**24
"""Events sorted at a time, about; bounds memory."""

OLDEST = 60
"""Half-lives after which an event's weight falls no further: a list of old events only still has a mean."""


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
        cut = request_times if every is None else floor_times(request_times, every, timezone)
        first = self.offsets[users]
        end = bisect_ranges(self.times, first, self.offsets[users + 1], cut - lag // MILLISECOND)
        start = np.maximum(first, end - last)
        return start, (end - start).astype(np.int32)


def recency(age: Longs, half_life: timedelta) -> Floats:
    """2 to the power of −age/half_life, of events `age` ms before their request: (N,)."""
    lives: Floats = np.minimum(age / (half_life / MILLISECOND), OLDEST).astype(np.float32)
    return np.exp2(-lives)
