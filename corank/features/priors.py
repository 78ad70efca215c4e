"""Counts of earlier candidates by key, at the last snapshot before a request.

Time is cut into periods, of a prior's `every`. What happens in a period is counted from its end on: a request knows
the periods that were over when its own began. So serving, which counts once a period, knows what training knew.

Letters: K keys · N look-ups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import polars as pl

from corank.core.arrays import read_array, write_arrays
from corank.core.time import FOREVER, NEVER, floor_times
from corank.core.types import Doubles, Hashes, Longs
from corank.features.counts.cumulative import (
    ALL_TIME,
    CumulativeCounts,
    Memory,
    add_up,
    add_up_one,
    sum_of_all,
    sum_periods,
)
from corank.features.counts.smoothing import fit_smoothing
from corank.features.labels import Labels
from corank.features.log_schema import DataSettings
from corank.features.operand_rows import OperandRows
from corank.features.schema import Schema

SMOOTHING = "smoothing.npy"
"""The file of a smoothing that was fitted."""
SAMPLE = 2**20
"""Keys, at most, that a smoothing is fitted to."""


class CountedFeature(Protocol):
    """A feature that counts earlier candidates or events, such as kind `prior`."""

    @property
    def events(self) -> str | None:
        """The table of `data.events` whose events it counts; None if it counts the log's candidates."""

    @property
    def label(self) -> str | None:
        """The label whose rate it is; None if it counts the exposed."""

    @property
    def every(self) -> timedelta:
        """PriorSnapshots are taken at multiples of this."""

    @property
    def memory(self) -> Memory:
        """How long a period counts."""

    @property
    def smoothing(self) -> float | Literal["auto"]:
        """Candidates of the rate of all that are added to a key's own; `auto` if they are fitted."""

    def known_after(self, data: DataSettings) -> timedelta:
        """How long after a candidate was exposed, or after an event, it may be counted."""

    def keys(self, operands: OperandRows) -> Hashes:
        """The key of each row, 0 for none: (N,)."""

    def count(
        self, rows: pl.DataFrame, data: DataSettings, labels: Labels, operands: OperandRows
    ) -> pl.DataFrame:
        """List what it counts of candidates, a row each: `key` (0: none), `period`, `shown`, `positive`, `row`."""

    def count_events(self, rows: pl.DataFrame, data: DataSettings, operands: OperandRows) -> pl.DataFrame:
        """List what it counts of events, with the columns that `count` gives."""


@dataclass(frozen=True)
class PriorCounts:
    """The counts of one feature of kind `prior`."""

    keys: Hashes
    """Ascending: (K,)."""
    counts: CumulativeCounts
    all: CumulativeCounts
    """Of all candidates: one key."""
    fitted: float | None = None
    """The smoothing, if it was fitted to training rows."""

    def values(
        self, feature: CountedFeature, keys: Hashes, cuts: Longs, usual: Doubles | None = None
    ) -> Doubles:
        """Compute the feature of each key at a cut, NaN where it is unknown: (N,).

        Args:
            feature: the prior.
            keys: hashes, 0 for none: (N,).
            cuts: ms UTC: (N,).
            usual: the rate of all at the cuts, if it is known: (1,) or (N,).
        """
        index = self._find(keys)
        shown, positive = self.counts.before(index, cuts, feature.memory)
        if feature.label is None:
            return np.where(keys == 0, np.nan, np.log1p(shown))
        if usual is None:
            if len(cuts) and (cuts == cuts[0]).all():
                of_cut, cut = cuts[:1], np.zeros(len(cuts), dtype=np.int64)
            else:
                of_cut, cut = np.unique(cuts, return_inverse=True)
            usual = self.rate_of_all(of_cut, feature.memory)[cut]
        added = feature.smoothing if feature.smoothing != "auto" else self.fitted
        assert added is not None
        rate: Doubles = (positive + added * usual) / (shown + added)
        return np.where(keys == 0, np.nan, rate)

    def rate_of_all(self, cuts: Longs, memory: Memory) -> Doubles:
        """Compute the rate of all candidates at each cut, NaN where there were none: (N,)."""
        shown, positive = self.all.before(np.zeros(len(cuts), dtype=np.int64), cuts, memory)
        rate: Doubles = np.divide(positive, shown, out=np.full(len(cuts), np.nan), where=shown > 0)
        return rate

    def fit_smoothing(self, end: int, memory: Memory) -> Self:
        """Fit the smoothing to the counts at the end of training: those of the first keys, which are hashes."""
        if end == FOREVER:  # at the end of the log
            end = int(self.counts.periods.max(initial=NEVER)) + 1
        cuts = np.full(min(len(self.keys), SAMPLE), end)
        return replace(self, fitted=fit_smoothing(*self.counts.before(np.arange(len(cuts)), cuts, memory)))

    def _find(self, keys: Hashes) -> Longs:
        if not len(self.keys):
            return np.full(len(keys), -1)
        index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[index] == keys, index, -1)

    def as_of(self, cut: int, memory: Memory = ALL_TIME, dated: bool = False) -> Self:
        """Keep what counts at a cut, and what `extend` needs; keys of which nothing does are left out.

        `dated` as in `CumulativeCounts.as_of`.
        """
        counts = self.counts.as_of(cut, memory, dated)
        kept = np.flatnonzero(counts.shown if memory.single else np.diff(counts.offsets))
        return replace(
            self, keys=self.keys[kept], counts=counts.select(kept), all=self.all.as_of(cut, memory)
        )

    def select_range(self, first: int, end: int) -> Self:
        """Keep the keys of a range of hashes, which ends before `end`."""
        keys = np.searchsorted(self.keys, np.array([first, min(end, 2**64 - 1)], dtype=np.uint64))
        stop = len(self.keys) if end > 2**64 - 1 else int(keys[1])
        kept = np.arange(int(keys[0]), stop)
        return replace(self, keys=self.keys[kept], counts=self.counts.select(kept))

    def extend(self, rows: pl.DataFrame, since: int, cut: int, memory: Memory = ALL_TIME) -> Self:
        """Bring a snapshot of `since` forward to a later `cut`, by the rows of the periods between.

        Args:
            rows: columns `key`, `period`, `shown`, `positive`; those of other periods are left out.
            since: the time of this snapshot.
            cut: the time of the new one.
            memory: how long a period counts.
        """
        new = rows.filter(pl.col("key") != 0, pl.col("period").is_between(since, cut, closed="left"))
        new = sum_periods(new)
        of_all = pl.concat([self.all.weights(np.zeros(1, dtype=np.uint64)), sum_of_all(new)])
        both = pl.concat([self.counts.weights(self.keys), new]).sort("key", "period")
        keys, counts = add_up(both, memory)
        return replace(self, keys=keys, counts=counts, all=add_up_one(of_all, memory)).as_of(cut, memory)

    def save(self, folder: Path) -> None:
        """Write one array per part."""
        parts = {"keys": self.keys}
        for name, counts in (("each", self.counts), ("all", self.all)):
            parts |= {f"{name}.{part}": array for part, array in vars(counts).items()}
        if self.fitted is not None:
            parts[SMOOTHING.removesuffix(".npy")] = np.array([self.fitted])
        write_arrays(folder, parts)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map what `save` wrote into memory. Raises DataError if a part is missing or damaged."""

        def counts(name: str, keys: int) -> CumulativeCounts:
            offsets = read_array(folder / f"{name}.offsets.npy", np.int64, (keys + 1,))
            periods = read_array(folder / f"{name}.periods.npy", np.int64, (None,))
            sums = (
                read_array(folder / f"{name}.{part}.npy", np.float64, periods.shape)
                for part in ("shown", "positive")
            )
            return CumulativeCounts(offsets, periods, *sums)

        fitted = folder / SMOOTHING
        smoothing = float(read_array(fitted, np.float64, (1,))[0]) if fitted.exists() else None
        keys = read_array(folder / "keys.npy", np.uint64, (None,))
        return cls(keys, counts("each", len(keys)), counts("all", 1), smoothing)


@dataclass(frozen=True)
class PriorSnapshots:
    """All priors of a schema: of packed data at any request, of a bundle at its own time."""

    rates: Mapping[str, PriorCounts]
    timezone: str
    cut: Mapping[str, int] | None = None
    """By what changes by snapshot, the time that a bundle's is of."""
    _known_rates: dict[str, Doubles] = field(default_factory=dict, init=False, compare=False)

    def cuts(self, name: str, every: timedelta, times: Longs) -> Longs:
        """Find the snapshot of a feature that is known at times (ms UTC, NEVER for before all): (N,) → (N,)."""
        if self.cut is not None:
            return np.full(len(times), self.cut[name])
        cuts, when = np.full(len(times), NEVER), times != NEVER
        cuts[when] = floor_times(times[when], every, self.timezone)
        return cuts

    def values(self, name: str, feature: CountedFeature, keys: Hashes, times: Longs) -> Doubles:
        """Compute a feature for keys at times (ms UTC, NEVER for before all): (N,), (N,) → (N,)."""
        cuts = self.cuts(name, feature.every, times)
        return self.rates[name].values(feature, keys, cuts, self._rate_of_all(name, feature))

    def _rate_of_all(self, name: str, feature: CountedFeature) -> Doubles | None:
        """The rate of all at a bundle's snapshot, computed once: (1,). None for packed data, or a count."""
        if self.cut is None or feature.label is None:
            return None
        if name not in self._known_rates:
            cut = np.array([self.cut[name]])
            self._known_rates[name] = self.rates[name].rate_of_all(cut, feature.memory)
        return self._known_rates[name]

    def as_of(self, schema: Schema, time: int) -> Self:
        """Keep only the last snapshot before a time."""
        cut = {
            name: int(floor_times(np.array([time]), every, self.timezone)[0])
            for name, every in schema.snapshots().items()
        }
        rates = {n: self.rates[n].as_of(cut[n], prior.memory) for n, prior in schema.priors().items()}
        return type(self)(rates, self.timezone, cut)


@dataclass(frozen=True)
class PointInTime:
    """What is known when each of N rows is scored, for one derived feature."""

    name: str
    """The feature's."""
    times: Longs
    """ms UTC, NEVER for before all: (N,)."""
    snapshots: PriorSnapshots
    sizes: Longs | None = None
    """How many candidates each row's request has: (N,), for rows of the query."""

    def counted(self, feature: CountedFeature, operands: OperandRows) -> Doubles:
        """A prior of the rows at their times, NaN where it is unknown: (N,)."""
        return self.snapshots.values(self.name, feature, feature.keys(operands), self.times)
