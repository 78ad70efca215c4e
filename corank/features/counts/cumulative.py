"""Sums of weights by key, cumulative over periods, which may forget.

Weights are added as multiples of WHOLE, so that sums are the same in any order, and a difference of two sums is exact.

Letters: K keys · E entries · N look-ups.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

import numpy as np
import polars as pl

from corank.core.ordering import bisect_ranges
from corank.core.time import MILLISECOND, NEVER
from corank.core.types import Doubles, Hashes, Longs, Mask

WHOLE = 2.0**-20
"""The unit of weights: sums are exact up to 2³³ candidates of weight 1."""
_PARTS = ("shown", "positive")


@dataclass(frozen=True)
class Memory:
    """How long a period counts: for ever, while it lies in a window, or less the longer it is over. Times are in ms."""

    every: int = 1
    """Length of a period."""
    window: int | None = None
    half_life: int | None = None

    @classmethod
    def of(cls, every: timedelta, window: timedelta | None, half_life: timedelta | None) -> Self:
        """Take lengths of time."""
        short, half = (None if one is None else one // MILLISECOND for one in (window, half_life))
        return cls(every // MILLISECOND, short, half)

    @property
    def single(self) -> bool:
        """Whether the last entry of a key tells all that counts."""
        return self.window is None

    def since(self, cut: Longs) -> Longs:
        """The begin of the first period that counts at a cut, or less: (N,).

        Half a period is added to the window, since days that a change of the clock makes longer begin earlier.
        """
        if self.window is None:
            return np.full(len(cut), NEVER)
        length = self.window + self.every // 2
        return np.where(cut < NEVER + length, NEVER, cut - length)

    def decay(self, elapsed: Longs) -> Doubles:
        """What a weight is worth after a time: (N,)."""
        assert self.half_life is not None
        return np.exp2(-np.maximum(elapsed, 0) / self.half_life)


ALL_TIME = Memory()


@dataclass(frozen=True)
class CumulativeCounts:
    """Weights of candidates by key, cumulative over periods. Each of K keys has entries, all keys together E.

    With a half-life an entry is the sum of earlier weights as they have decayed when its own period is over.
    """

    offsets: Longs
    """Where each key's entries begin, and the end: (K + 1,)."""
    periods: Longs  # (E,) ascending within a key
    shown: Doubles  # (E,)
    positive: Doubles  # (E,)

    @property
    def entries(self) -> int:
        """E."""
        return self.periods.size

    def before(self, key: Longs, cut: Longs, memory: Memory = ALL_TIME) -> tuple[Doubles, Doubles]:
        """Return what counts at a cut of shown and positive of the `key`-th keys; 0 for key −1: (N,), (N,)."""
        if not len(self.periods):
            return np.zeros(len(key)), np.zeros(len(key))
        since = memory.since(cut)
        if len(self.periods) == len(self.offsets) - 1:  # one entry a key, as in most bundles
            entry = np.maximum(key, 0)
            period = self.periods[entry]
            known = (key >= 0) & (period < cut) & (period >= since)
            return self._at(entry, known, cut, memory)
        low = self.offsets[key]
        high = np.where(key < 0, low, self.offsets[key + 1])
        end = bisect_ranges(self.periods, low, high, cut)
        shown, positive = self._at(np.maximum(end - 1, 0), end > low, cut, memory)
        if memory.single:
            return shown, positive
        first = bisect_ranges(self.periods, low, high, since)
        old = self._at(np.maximum(first - 1, 0), first > low, cut, memory)
        return shown - old[0], positive - old[1]

    def _at(self, entry: Longs, known: Mask, cut: Longs, memory: Memory) -> tuple[Doubles, Doubles]:
        shown, positive = (np.where(known, part[entry], 0) for part in (self.shown, self.positive))
        if memory.half_life is None:
            return shown, positive
        # cuts before all would overflow, and nothing is known then
        elapsed = np.where(known, cut, self.periods[entry]) - self.periods[entry] - memory.every
        left = memory.decay(elapsed)
        return shown * left, positive * left

    def as_of(self, cut: int, memory: Memory = ALL_TIME, dated: bool = False) -> Self:
        """Keep of each key what counts at a cut, and what will still count at a later one.

        That is one entry a key, or those of the periods in the window, which may be none.

        Args:
            cut: ms UTC.
            memory: how long a period counts.
            dated: whether an entry keeps its own period, which tells when the key was seen last.
        """
        low, high = self.offsets[:-1], self.offsets[1:]
        cuts = np.full(len(low), cut)
        end = bisect_ranges(self.periods, low, high, cuts)
        if not memory.single:
            first = bisect_ranges(self.periods, low, end, memory.since(cuts))
            length = end - first
            entry = np.repeat(first - np.cumsum(length) + length, length) + np.arange(length.sum())
            parts = [part[entry] - np.repeat(self._base(part, first), length) for part in self._parts()]
            return type(self)(np.append(0, np.cumsum(length)), self.periods[entry], *parts)
        known = end > low
        entry = np.where(known, end - 1, 0)
        none = np.zeros(1)
        parts = [np.where(known, part[entry] if len(part) else none, 0) for part in self._parts()]
        periods = np.full(len(low), cut - 1)
        if (dated or memory.half_life is not None) and len(self.periods):
            periods = np.where(known & (parts[0] > 0), self.periods[entry], periods)
        return type(self)(np.arange(len(low) + 1), periods, *parts)

    def _base(self, part: Doubles, first: Longs) -> Doubles:
        """The sum of each key before its entry `first`: (K,)."""
        if not len(part):
            return np.zeros(len(first))
        return np.where(first > self.offsets[:-1], part[np.maximum(first - 1, 0)], 0)

    def _parts(self) -> tuple[Doubles, Doubles]:
        return self.shown, self.positive

    def select(self, keys: Longs) -> Self:
        """Keep some keys, ascending."""
        length = np.diff(self.offsets)[keys]
        entry = np.repeat(self.offsets[keys] - np.cumsum(length) + length, length) + np.arange(length.sum())
        offsets = np.append(0, np.cumsum(length))
        return type(self)(offsets, self.periods[entry], self.shown[entry], self.positive[entry])

    def weights(self, keys: Hashes) -> pl.DataFrame:
        """The weights that `add_up` makes these counts of, a row each: `key`, `period`, `shown`, `positive`.

        Of counts with a half-life the first entry of a key alone is such a weight.
        """
        first = np.repeat(self.offsets[:-1], np.diff(self.offsets)) == np.arange(len(self.periods))
        grown = (part - np.where(first, 0, np.roll(part, 1)) for part in self._parts())
        columns = {"key": np.repeat(keys, np.diff(self.offsets)), "period": self.periods.astype(np.int64)}
        return pl.DataFrame(columns | dict(zip(_PARTS, grown, strict=True)))


def sum_periods(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum rows of `key`, `period`, `shown` and `positive` by key and period, ascending."""
    whole = (pl.col(name).truediv(WHOLE).round().cast(pl.Int64).sum() for name in _PARTS)
    summed = rows.group_by("key", "period").agg(whole).sort("key", "period")
    return summed.with_columns(pl.col(_PARTS).cast(pl.Float64) * WHOLE)


def add_up(weights: pl.DataFrame, memory: Memory = ALL_TIME) -> tuple[Hashes, CumulativeCounts]:
    """Add weights up over the periods of each key.

    Args:
        weights: as in `sum_periods`; those of a key and a period are one row, ascending.
        memory: how long a period counts.

    Returns:
        The keys, ascending, and their counts.
    """
    key = weights["key"].to_numpy()
    starts = np.append(np.ones(min(len(key), 1), dtype=bool), key[1:] != key[:-1])
    first = np.flatnonzero(starts)
    offsets = np.append(first, len(key)).astype(np.int64)
    periods = weights["period"].to_numpy()
    if memory.half_life is None:
        sums = weights.select(pl.col(_PARTS).cum_sum().over("key"))
        shown, positive = (sums[name].to_numpy() for name in _PARTS)
    else:
        shown, positive = (weights[name].to_numpy().copy() for name in _PARTS)
        _decay(offsets, periods, (shown, positive), memory)
    return key[first], CumulativeCounts(offsets, periods, shown, positive)


def sum_of_all(weights: pl.DataFrame) -> pl.DataFrame:
    """Sum the weights of all keys by period, ascending: under the key 0."""
    return sum_periods(weights.with_columns(key=pl.lit(0, pl.UInt64)))


def add_up_one(weights: pl.DataFrame, memory: Memory = ALL_TIME) -> CumulativeCounts:
    """Add the weights of one key up over its periods; it may have none."""
    return replace(add_up(weights, memory)[1], offsets=np.array([0, len(weights)]))


def _decay(offsets: Longs, periods: Longs, parts: tuple[Doubles, Doubles], memory: Memory) -> None:
    """Add to each entry what is left of the one before: the n-th entries of all keys at once, for each n.

    No factor is above 1, so that a long log overflows nowhere.
    """
    length = np.diff(offsets)
    order = np.argsort(-length, kind="stable")
    starts, ascending = offsets[:-1][order], np.sort(length)
    for n in range(1, int(length.max(initial=0))):
        entry = starts[: len(length) - np.searchsorted(ascending, n, side="right")] + n
        left = memory.decay(periods[entry] - periods[entry - 1])
        for part in parts:
            part[entry] += part[entry - 1] * left
