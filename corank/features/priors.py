"""Counts of earlier candidates by key, as of the last snapshot before a request.

Time is cut into periods, of a prior's `every`. What happens in a period is counted from its end on: a request knows
the periods that were over when its own began. So serving, which counts once a period, knows what training knew.

Letters: K keys · E entries · N look-ups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import polars as pl

from corank.core.arrays import read_array, write_arrays
from corank.core.ordering import bisect_ranges
from corank.core.time import NEVER, floor_times
from corank.core.types import Doubles, Hashes, Longs
from corank.features.labels import Labels
from corank.features.log_schema import DataSettings
from corank.features.operand_rows import OperandRows


class CountedFeature(Protocol):
    """A feature that counts earlier candidates, as of kind `prior`."""

    @property
    def label(self) -> str | None:
        """The label whose rate it is; None if it counts the exposed."""

    @property
    def every(self) -> timedelta:
        """PriorSnapshots are taken at multiples of this."""

    @property
    def smoothing(self) -> float:
        """Candidates of the rate of all that are added to a key's own."""

    def known_after(self, data: DataSettings) -> timedelta:
        """How long after a candidate was exposed it may be counted."""

    def keys(self, operands: OperandRows) -> Hashes:
        """The key of each row, 0 for none: (N,)."""

    def count(
        self, rows: pl.DataFrame, data: DataSettings, labels: Labels, operands: OperandRows
    ) -> pl.DataFrame:
        """List what it counts of candidates, a row each: `key` (0: none), `period`, `shown`, `positive`, `row`."""


@dataclass(frozen=True)
class CumulativeCounts:
    """Weights of candidates by key, cumulative over periods."""

    offsets: Longs
    """Where each key's entries begin, and the end: (K + 1,)."""
    periods: Longs  # (E,) ascending within a key
    shown: Doubles  # (E,)
    positive: Doubles  # (E,)

    def before(self, key: Longs, cut: Longs) -> tuple[Doubles, Doubles]:
        """Return shown and positive of the `key`-th keys in the periods before a cut; 0 for key −1: (N,), (N,)."""
        if not len(self.periods):
            return np.zeros(len(key)), np.zeros(len(key))
        if len(self.periods) == len(self.offsets) - 1:  # one entry a key, as in a bundle
            entry = np.maximum(key, 0)
            known = (key >= 0) & (self.periods[entry] < cut)
            return np.where(known, self.shown[entry], 0), np.where(known, self.positive[entry], 0)
        low = self.offsets[key]
        end = bisect_ranges(self.periods, low, np.where(key < 0, low, self.offsets[key + 1]), cut)
        known = end > low
        entry = np.where(known, end - 1, 0)
        return np.where(known, self.shown[entry], 0), np.where(known, self.positive[entry], 0)


@dataclass(frozen=True)
class PriorCounts:
    """The counts of one feature of kind `prior`."""

    keys: Hashes
    """Ascending: (K,)."""
    counts: CumulativeCounts
    all: CumulativeCounts
    """Of all candidates: one key."""

    def values(self, feature: CountedFeature, keys: Hashes, cuts: Longs) -> Doubles:
        """Compute the feature of each key as of a cut, NaN where it is unknown: (N,)."""
        index = self._find(keys)
        shown, positive = self.counts.before(index, cuts)
        if feature.label is None:
            return np.where(keys == 0, np.nan, np.log1p(shown))
        if len(cuts) and (cuts == cuts[0]).all():
            of_cut, cut = cuts[:1], np.zeros(len(cuts), dtype=np.int64)
        else:
            of_cut, cut = np.unique(cuts, return_inverse=True)
        of_all, positive_of_all = self.all.before(np.zeros(len(of_cut), dtype=np.int64), of_cut)
        usual = np.divide(positive_of_all, of_all, out=np.full(len(of_cut), np.nan), where=of_all > 0)[cut]
        rate: Doubles = (positive + feature.smoothing * usual) / (shown + feature.smoothing)
        return np.where(keys == 0, np.nan, rate)

    def _find(self, keys: Hashes) -> Longs:
        if not len(self.keys):
            return np.full(len(keys), -1)
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[index] == keys, index, -1)

    def as_of(self, cut: int) -> Self:
        """Keep the counts of the periods before a cut, one entry a key; keys without any are left out."""
        index = np.arange(len(self.keys))
        shown, positive = self.counts.before(index, np.full(len(index), cut))
        (of_all,), (positive_of_all,) = self.all.before(np.zeros(1, np.int64), np.full(1, cut))
        kept = np.flatnonzero(shown)
        return type(self)(
            self.keys[kept],
            _single(cut, shown[kept], positive[kept]),
            _single(cut, np.array([of_all]), np.array([positive_of_all])),
        )

    def extend(self, rows: pl.DataFrame, since: int, cut: int) -> Self:
        """Bring a snapshot of `since` forward to a later `cut`, by the rows of the periods between.

        Args:
            rows: columns `key`, `period`, `shown`, `positive`, `row`; those of other periods are left out.
        """
        new = rows.filter(pl.col("key") != 0, pl.col("period").is_between(since, cut, closed="left"))
        held = pl.DataFrame({"key": self.keys, "shown": self.counts.shown, "positive": self.counts.positive})
        both = pl.concat(
            [
                held.with_columns(period=pl.lit(cut - 1), row=pl.lit(-1)).select(_COLUMNS),
                new.with_columns(period=pl.lit(cut - 1)).select(_COLUMNS),
            ],
            how="vertical_relaxed",
        )
        keys, counts = count_rows(both)
        of_all = self.all.shown.sum() + new["shown"].sum()
        positive = self.all.positive.sum() + new["positive"].sum()
        return type(self)(keys, counts, _single(cut, np.array([of_all]), np.array([positive])))

    def save(self, folder: Path) -> None:
        """Write one array per part."""
        parts = {"keys": self.keys}
        for name, counts in (("each", self.counts), ("all", self.all)):
            parts |= {f"{name}.{part}": array for part, array in vars(counts).items()}
        write_arrays(folder, parts)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map what `save` wrote into memory. Raises DataError if a part is missing or damaged."""

        def counts(name: str) -> CumulativeCounts:
            parts = ("offsets", "periods", "shown", "positive")
            return CumulativeCounts(*(read_array(folder / f"{name}.{part}.npy") for part in parts))

        return cls(read_array(folder / "keys.npy"), counts("each"), counts("all"))


@dataclass(frozen=True)
class PriorSnapshots:
    """All priors of a schema: of packed data as of any request, of a bundle as of its own time."""

    rates: Mapping[str, PriorCounts]
    timezone: str
    cut: Mapping[str, int] | None = None
    """By prior, the time that a bundle's is of."""

    def values(self, name: str, feature: CountedFeature, keys: Hashes, times: Longs) -> Doubles:
        """Compute a feature for keys at times (ms UTC, NEVER for before all): (N,), (N,) → (N,)."""
        if self.cut is not None:
            cuts = np.full(len(keys), self.cut[name])
        else:
            cuts = np.full(len(keys), NEVER)
            when = times != NEVER
            cuts[when] = floor_times(times[when], feature.every, self.timezone)
        return self.rates[name].values(feature, keys, cuts)

    def as_of(self, priors: Mapping[str, CountedFeature], time: int) -> Self:
        """Keep only the last snapshot before a time."""
        cut = {
            name: int(floor_times(np.array([time]), feature.every, self.timezone)[0])
            for name, feature in priors.items()
        }
        return type(self)({n: self.rates[n].as_of(cut[n]) for n in priors}, self.timezone, cut)


@dataclass(frozen=True)
class PointInTime:
    """What is known when each of N rows is scored, for one derived feature."""

    name: str
    """The feature's."""
    times: Longs
    """ms UTC, NEVER for before all: (N,)."""
    snapshots: PriorSnapshots

    def counted(self, feature: CountedFeature, operands: OperandRows) -> Doubles:
        """A prior of the rows as of their times, NaN where it is unknown: (N,)."""
        return self.snapshots.values(self.name, feature, feature.keys(operands), self.times)


_COLUMNS = ["key", "period", "shown", "positive", "row"]


def count_rows(rows: pl.DataFrame) -> tuple[Hashes, CumulativeCounts]:
    """Count rows of `key`, `period`, `shown`, `positive` and the log's `row`, in the order of the log.

    Returns:
        The keys, ascending, and their counts.
    """
    rows = rows.sort("key", "period", "row")
    grouped = rows.group_by("key", "period", maintain_order=True).agg(pl.col("shown", "positive").sum())
    sums = grouped.with_columns(pl.col("shown", "positive").cum_sum().over("key"))
    key = sums["key"].to_numpy()
    first = (
        np.flatnonzero(np.diff(key, prepend=key[:1] ^ np.uint64(1))) if len(key) else np.empty(0, np.int64)
    )
    offsets = np.append(first, len(key)).astype(np.int64)
    return key[first], CumulativeCounts(
        offsets, *(sums[n].to_numpy() for n in ("period", "shown", "positive"))
    )


def _single(cut: int, shown: Doubles, positive: Doubles) -> CumulativeCounts:
    """One entry a key, of the last period before a cut."""
    return CumulativeCounts(np.arange(len(shown) + 1), np.full(len(shown), cut - 1), shown, positive)
