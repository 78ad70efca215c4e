"""Counts of earlier candidates by key, at the last snapshot before a request.

Time is cut into periods, of a prior's `every`. What happens in a period is counted from its end on: a request knows
the periods that were over when its own began. So serving, which counts once a period, knows what training knew.

Sums of weights by key are cumulative over periods, which may forget. Weights are added as multiples of WHOLE, so that
sums are the same in any order, and a difference of two sums is exact. How strongly rates are smoothed is fitted to the
counts of training rows.

Letters: K keys · E entries · N look-ups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import polars as pl

from corank.core.arrays import read_array, write_arrays
from corank.core.ordering import bisect_ranges
from corank.core.time import FOREVER, MILLISECOND, NEVER, floor_times
from corank.core.types import Doubles, Hashes, Longs, Mask
from corank.features.log_schema import DataSettings, Labels
from corank.features.operands import OperandRows

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
        if len(self.periods) == len(self.offsets) - 1:  # one entry a key, as in most bundles
            period = self.periods.take(key)
            known = (key >= 0) & (period < cut)
            if memory.window is not None:
                known &= period >= memory.since(cut)
            return self._at(key, known, cut, memory)
        low = self.offsets[key]
        high = np.where(key < 0, low, self.offsets[key + 1])
        end = bisect_ranges(self.periods, low, high, cut)
        shown, positive = self._at(np.maximum(end - 1, 0), end > low, cut, memory)
        if memory.single:
            return shown, positive
        first = bisect_ranges(self.periods, low, high, memory.since(cut))
        old = self._at(np.maximum(first - 1, 0), first > low, cut, memory)
        return shown - old[0], positive - old[1]

    def _at(self, entry: Longs, known: Mask, cut: Longs, memory: Memory) -> tuple[Doubles, Doubles]:
        shown, positive = self.shown.take(entry) * known, self.positive.take(entry) * known
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


USUAL = 10.0
"""The smoothing that nothing speaks against, and that few keys leave as it is."""
BOUNDS = (0.1, 1e5)


def fit_smoothing(shown: Doubles, positive: Doubles) -> float:
    """Fit the strength s of a beta prior of the mean rate r to the counts of K keys, (K,), by empirical Bayes.

    The x of n candidates of a key are beta-binomial: log Γ(x+sr) Γ(n−x+s(1−r)) Γ(s) / (Γ(n+s) Γ(sr) Γ(s(1−r))), summed
    over keys, is their likelihood (Griffiths, Maximum likelihood estimation for the beta-binomial distribution,
    Biometrics 1973; Robbins, An empirical Bayes approach to statistics, 1956). r is the rate of all. A prior of log s,
    normal around log USUAL with deviation log 10, decides where keys are few: there s is USUAL.

    Returns:
        s, to three digits.
    """
    # slow to load, and for packing alone
    from scipy.optimize import minimize_scalar
    from scipy.special import gammaln

    known = shown > 0
    n, x = shown[known], np.minimum(positive[known], shown[known])
    total = n.sum()
    if not 0 < x.sum() < total:
        return USUAL
    rate = x.sum() / total
    pairs, times = np.unique(np.stack((n, x)), axis=1, return_counts=True)
    n, x = pairs

    def loss(log_s: float) -> float:
        s = np.exp(log_s)
        a, b = s * rate, s * (1 - rate)
        likelihood = gammaln(x + a) + gammaln(n - x + b) - gammaln(n + s)
        norm = gammaln(s) - gammaln(a) - gammaln(b)
        far = (log_s - np.log(USUAL)) / np.log(10)
        return float(far**2 / 2 - (times * (likelihood + norm)).sum())

    optimum = minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-4})
    return float(f"{np.exp(optimum.x):.3g}")


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
        index = self.keys.searchsorted(keys)
        index[self.keys.take(index, mode="clip") != keys] = -1
        return index

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
    last: Mapping[str, int] | None = None
    """By what changes by snapshot, the last time that any request may know; all of packed data if None."""
    _known_rates: dict[str, Doubles] = field(default_factory=dict, init=False, compare=False)

    def cuts(self, name: str, every: timedelta, times: Longs) -> Longs:
        """Find the snapshot of a feature that is known at times (ms UTC, NEVER for before all): (N,) → (N,)."""
        if self.cut is not None:
            return np.full(len(times), self.cut[name])
        cuts, when = np.full(len(times), NEVER), times != NEVER
        cuts[when] = floor_times(times[when], every, self.timezone)
        return cuts if self.last is None else np.minimum(cuts, self.last[name])

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

    def as_of(self, steps: Mapping[str, timedelta], counted: Mapping[str, CountedFeature], time: int) -> Self:
        """Keep only the last snapshot before a time, of features by `Schema.snapshots` and `Schema.priors`."""
        cut = {n: int(floor_times(np.array([time]), every, self.timezone)[0]) for n, every in steps.items()}
        rates = {n: self.rates[n].as_of(cut[n], prior.memory) for n, prior in counted.items()}
        return type(self)(rates, self.timezone, cut)


class ComparedFeature(Protocol):
    """A derived feature that another one compares."""

    @property
    def snapshot_every(self) -> timedelta | None:
        """The step at which it changes with the time of the request."""

    def derive(self, operands: OperandRows, when: "PointInTime") -> Hashes | Doubles:
        """Compute it for N rows."""


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
    derived: Mapping[str, ComparedFeature] = field(default_factory=dict)
    """All derived features, of which it may compare one."""

    def counted(self, feature: CountedFeature, operands: OperandRows) -> Doubles:
        """A prior of the rows at their times, NaN where it is unknown: (N,)."""
        return self.snapshots.values(self.name, feature, feature.keys(operands), self.times)
