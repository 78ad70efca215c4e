"""Selects the past events that later requests may still read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from corank.core.time import MILLISECOND, floor_times
from corank.core.types import Longs, Mask
from corank.features.history import History
from corank.features.log_schema import DataSettings
from corank.features.row_columns import ROW, TIME, USER


@dataclass(frozen=True)
class EventTrim:
    """Keeps the events that requests from a time on read: those after a bound, and the newest before it per user."""

    bound: int
    """ms UTC."""
    last: int
    """Events of a user before the bound, at most."""

    @classmethod
    def of(cls, histories: Iterable[History], since: int, data: DataSettings) -> Self:
        """Trim for requests from a time on, ms UTC, of histories that share the events."""
        history_list = list(histories)
        bounds = []
        for history in history_list:
            cut = since
            if history.every is not None:
                cut = int(floor_times(np.array([since]), history.every, data.timezone)[0])
            bounds.append(cut - history.known_after(data) // MILLISECOND)
        return cls(min(bounds), max(history.last for history in history_list))

    def mark(self, user: Longs, time: Longs) -> Mask:
        """Mark the events to keep, of users one after another, the oldest first: (E,), (E,) → (E,)."""
        old = np.flatnonzero(time < self.bound)
        # the number of each old event from the end of its user's
        ends = np.append(np.flatnonzero(np.diff(user[old])), len(old) - 1) if len(old) else old
        end = ends[np.searchsorted(ends, np.arange(len(old)))] if len(old) else old
        kept = np.ones(len(user), dtype=bool)
        kept[old] = end - np.arange(len(old)) < self.last
        return kept

    def select(self, events: pl.DataFrame) -> pl.DataFrame:
        """Keep events of USER, TIME and ROW, sorted by these."""
        ordered = events.sort(USER, TIME, ROW)
        user = ordered[USER].rank("dense").to_numpy().astype(np.int64)
        return ordered.filter(pl.Series(self.mark(user, ordered[TIME].to_numpy()), dtype=pl.Boolean))
