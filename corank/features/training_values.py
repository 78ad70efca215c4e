"""The training values of one feature, and what a kind may measure of them when it is fitted: counts, bounds, sums and
samples.

Measurements are made of parts, by many tasks at once, and merged: the result is the same however the rows are cut.
What a `fit` asks for is only known when it runs. So it runs with what was measured; if that does not do, the missing
measurement is made and it runs again. A vocabulary knows values from one packing to the next: they are admitted by
count, evicted by age or by size.

Letters: N values of a part.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl
from pydantic import PositiveInt, model_validator

from corank.core.hash_index import splitmix64
from corank.core.settings import Duration, Settings
from corank.core.time import DAY, FOREVER, MILLISECOND, NEVER
from corank.core.types import Longs
from corank.features.encoding import Hash, Vocabulary, to_identifiers, wrong_type

DENSE = 4
"""Whole numbers whose range is at most so many times their number are counted in an array."""


class ColumnMeasure(ABC):
    """A measurement of a column. A subclass is a frozen dataclass: two that are equal measure the same."""

    by_value: ClassVar[bool] = False
    """Whether a part has a row for each distinct `value`, so that parts are spread by value before they are merged."""
    timed: ClassVar[bool] = False
    """Whether `part` needs the times of rows."""

    @abstractmethod
    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Measure a part of the column.

        Args:
            values: (N,).
            rows: the numbers of their rows in the table: (N,).
            times: when the rows were, ms UTC: (N,); None unless `timed`, and of a table that has no times.
        """

    @abstractmethod
    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Merge parts that stand one below the other, in the order of their rows: into a part again."""

    def finish(self, merged: pl.DataFrame) -> pl.DataFrame:
        """Make the result of all parts, merged."""
        return merged


def count_values(values: pl.Series, times: Longs | None = None) -> pl.DataFrame:
    """Count the distinct values that are not null, in no particular order.

    Args:
        values: (N,).
        times: when their rows were, ms UTC: (N,).

    Returns:
        Columns `value` and `count`; with times `seen`, when it was last.
    """
    known = values.drop_nulls()
    when = None if times is None else times[values.is_not_null().to_numpy()]
    if (low := _dense_from(known)) is not None:  # ten times as fast as a hash table
        index = known.cast(pl.Int64).to_numpy() - low
        counts = np.bincount(index)
        offsets = np.flatnonzero(counts)
        value = pl.Series("value", offsets + low).cast(known.dtype)
        columns = [value, pl.Series("count", counts[offsets])]
        if when is not None:
            seen = np.full(len(counts), NEVER)
            np.maximum.at(seen, index, when)
            columns.append(pl.Series("seen", seen[offsets]))
        return pl.DataFrame(columns)
    frame, count = known.to_frame("value"), pl.len().cast(pl.Int64).alias("count")
    if when is None:
        return frame.group_by("value").agg(count)
    return (
        frame.with_columns(seen=pl.Series(when, dtype=pl.Int64))
        .group_by("value")
        .agg(count, pl.col("seen").max())
    )


def _dense_from(known: pl.Series) -> int | None:
    """Return the least of whole numbers that an array can count; None for other values."""
    if not known.dtype.is_integer() or not len(known):
        return None
    low, high = int(known.min()), int(known.max())  # type: ignore[arg-type]
    return low if high - low < DENSE * len(known) and low > -(2**62) and high < 2**62 else None


@dataclass(frozen=True)
class FirstValue(ColumnMeasure):
    """The first value that is not null, if there is one: column `value`."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Take the first of the part."""
        return values.drop_nulls().head(1).to_frame("value")

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Take the first of all."""
        return parts.head(1)


@dataclass(frozen=True)
class ValueCounts(ColumnMeasure):
    """How often each value is there that is not null: columns `value`, distinct, and `count`."""

    by_value: ClassVar[bool] = True
    at_least: int = 1
    """Values that are there less often are left out."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Count those of the part."""
        return count_values(values)

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Add the counts up."""
        return parts.group_by("value").agg(pl.col("count").sum())

    def finish(self, merged: pl.DataFrame) -> pl.DataFrame:
        """Leave out what is rare."""
        return merged.filter(pl.col("count") >= self.at_least)


@dataclass(frozen=True)
class ValueRange(ColumnMeasure):
    """How many values are known, the least and the greatest: one row of `count`, `low`, `high`."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Find those of the part."""
        value = pl.col("value")
        return (
            values.cast(pl.Float64)
            .to_frame("value")
            .select(count=value.count().cast(pl.Int64), low=value.min(), high=value.max())
        )

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Find those of all."""
        return parts.select(pl.col("count").sum(), pl.col("low").min(), pl.col("high").max())


@dataclass(frozen=True)
class WholeSum(ColumnMeasure):
    """A sum in whole multiples of 1 / `unit`: one row of `sum`.

    Whole numbers add up to the same in any order, as floating-point numbers do not.
    """

    unit: float
    log: bool = False
    """Whether sign(x)·log(1 + |x|) is summed in place of x."""
    around: float | None = None
    """The number whose squared distance is summed; the values themselves if None."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Add up those of the part."""
        value = pl.col("value")
        if self.log:
            value = value.sign() * value.abs().log1p()
        if self.around is not None:
            value = (value - self.around) ** 2
        whole = (value * self.unit).round().cast(pl.Int64)
        return values.cast(pl.Float64).to_frame("value").select(sum=whole.sum())

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Add the sums up."""
        return parts.sum()


@dataclass(frozen=True)
class KnownCount(ColumnMeasure):
    """How many values are known: one row of `count`."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Count those of the part."""
        return pl.DataFrame({"count": [len(values) - values.null_count()]}, schema={"count": pl.Int64})

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Add the counts up."""
        return parts.sum()


@dataclass(frozen=True)
class RowSample(ColumnMeasure):
    """The known values of the rows whose number has a hash below `limit`, of 2⁶⁴: column `value`."""

    limit: int

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Draw those of the part."""
        drawn = values.is_not_null()
        if self.limit < 2**64:
            drawn &= pl.Series(splitmix64(rows.view(np.uint64)) < np.uint64(self.limit))
        return values.filter(drawn).to_frame("value")

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Keep all."""
        return parts


@dataclass(frozen=True)
class ValueTally(ColumnMeasure):
    """How often each value is there that is not null, and when last: `value`, distinct, `count`, `seen` (ms UTC)."""

    by_value: ClassVar[bool] = True
    timed: ClassVar[bool] = True
    until: int = FOREVER
    """When values of a table without times were seen."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Count those of the part."""
        if times is None:
            return count_values(values).with_columns(seen=pl.lit(self.until, pl.Int64))
        return count_values(values, times)

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Add the counts up, and keep the latest times."""
        return parts.group_by("value").agg(pl.col("count").sum(), pl.col("seen").max())


@dataclass(frozen=True)
class SeenValues(ColumnMeasure):
    """The distinct values that are not null, and when each was seen last: columns `value` and `seen` (ms UTC)."""

    by_value: ClassVar[bool] = True
    timed: ClassVar[bool] = True

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Find those of the part."""
        return ValueTally().part(values, rows, times).select("value", "seen")

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Find those of all."""
        return parts.group_by("value").agg(pl.col("seen").max())


FAINT = 1 / 16
"""A decayed count below which a value outside the vocabulary is forgotten."""
GROWTH = ("min_count", "max_rows", "keep_days", "count_half_life")
"""The settings of growth: a vocabulary continues when they change."""


class VocabularySettings(Settings):
    """The settings of every kind with a vocabulary: which values have a row of their own."""

    min_count: PositiveInt = 1
    """Values counted less often in training are encoded as unknown, which so learns an embedding. Of ids of items and
    users rows of the log are counted, of other features rows of their own table."""
    max_rows: PositiveInt | None = None
    """Values of the vocabulary, at most: the most frequent ones."""
    keep_days: PositiveInt | None = None
    """Values that were not seen for so many days before the end of training are left out."""
    count_half_life: Duration | None = None
    """`pack --from`: counts of earlier packings count half as much after this time; for ever in full unless given."""
    hash: PositiveInt | None = None
    """Rows that values are hashed to, in place of a vocabulary: any value has one."""

    vocabulary_settings: ClassVar[frozenset[str]] = frozenset({*GROWTH, "hash"})

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        if self.count_half_life is not None and not self.count_half_life:
            raise ValueError("count_half_life must be above 0s")
        idle = [name for name in GROWTH[1:] if getattr(self, name) is not None]
        if self.hash is not None and idle:
            raise ValueError(f"{', '.join(idle)}: has no effect with hash, which knows no values; drop it")
        return self


def list_keep_days(features: Iterable[object]) -> list[int | None]:
    """List the `keep_days` of the features that have a vocabulary; None for one that keeps values for ever."""
    return [feature.keep_days for feature in features if isinstance(feature, VocabularySettings)]


def max_rows_of(feature: object) -> int | None:
    """Return the `max_rows` of a feature; None if it has none."""
    return feature.max_rows if isinstance(feature, VocabularySettings) else None


@dataclass(frozen=True)
class EarlierTally:
    """What an earlier packing knew of the values of a feature."""

    tally: pl.DataFrame
    """Columns `value`, `count` (decayed) and `seen` (ms UTC), of values in the vocabulary and outside."""
    known: pl.Series
    """The vocabulary, in the order of its codes."""
    until: int
    """When its training ended, ms UTC."""
    fixed: bool = False
    """Whether the vocabulary stays as it is."""


def merge_tally(
    new: pl.DataFrame, until: int, adds: bool, settings: VocabularySettings, earlier: EarlierTally | None
) -> pl.DataFrame:
    """Merge the counts of a packing with those of an earlier one.

    Args:
        new: columns `value`, `count` and `seen`.
        until: when training ends, ms UTC.
        adds: whether counts add up; those of a table, which holds the same rows again, do not.
        settings: of the feature.
        earlier: what an earlier packing knew.

    Returns:
        `value`, `count`, `seen`, ascending by value, without what is forgotten.
    """
    merged = new.with_columns(pl.col("count").cast(pl.Float64))
    if earlier is not None and len(earlier.tally):
        half = settings.count_half_life
        left = 2.0 ** (-(until - earlier.until) * MILLISECOND / half) if half else 1.0
        old = earlier.tally.with_columns(pl.col("count") * left)
        count = pl.col("count").sum() if adds else pl.col("count").max()
        both = pl.concat([merged, old]) if len(merged) else old
        merged = both.group_by("value").agg(count, pl.col("seen").max())
    if settings.keep_days is not None:
        merged = merged.filter(pl.col("seen") >= until - settings.keep_days * (DAY // MILLISECOND))
    if settings.count_half_life is not None:
        known = pl.col("value").is_in(earlier.known.implode()) if earlier and len(earlier.known) else False
        merged = merged.filter((pl.col("count") >= FAINT) | known)
    return merged.sort("value")


def choose_values(
    tally: pl.DataFrame, settings: VocabularySettings, earlier: EarlierTally | None
) -> pl.Series:
    """Choose the values of a vocabulary: kept ones in their order, then new ones by count, ties by value.

    Args:
        tally: as `merge_tally` makes it.
        settings: of the feature.
        earlier: what an earlier packing knew.
    """
    if earlier is not None and earlier.fixed:
        return earlier.known
    known = earlier.known.to_frame("value") if earlier else tally.select("value").clear()
    known = (
        known.with_row_index("code") if len(known) else tally.select("value").clear().with_row_index("code")
    )
    rows = tally.join(known, on="value", how="left")
    rows = rows.filter(pl.col("code").is_not_null() | (pl.col("count") >= settings.min_count))
    if settings.max_rows is not None:
        by_count = rows.sort("count", "code", "value", descending=[True, False, False], nulls_last=True)
        rows = by_count.head(settings.max_rows)
    ordered = rows.sort("code", "count", "value", descending=[False, True, False], nulls_last=True)
    return pl.concat(
        [ordered.filter(pl.col("code").is_not_null()), ordered.filter(pl.col("code").is_null())]
    )["value"]


SAMPLE = 2**20
"""Values, about, from which quantiles are taken; all if there are fewer."""


@dataclass(frozen=True)
class Measurement:
    """What is measured, and of which values."""

    measure: ColumnMeasure
    flat: bytes | None = None
    """An expression, serialised, whose lists hold the values; None for the values of the column as they are."""

    def part(self, values: pl.Series, rows: Longs, times: Longs | None = None) -> pl.DataFrame:
        """Measure a part of the column, as `ColumnMeasure.part` does."""
        if self.flat is None:
            return self.measure.part(values, rows, times)
        lists = values.to_frame("value").select(pl.Expr.deserialize(self.flat)).to_series()
        if isinstance(lists.dtype, pl.Array):
            lists = lists.arr.to_list()
        length = lists.list.len().fill_null(0)
        repeated = length.to_numpy()
        of_times = None if times is None else np.repeat(times, repeated)
        return self.measure.part(lists.filter(length > 0).explode(), np.repeat(rows, repeated), of_times)


class NotMeasured(BaseException):
    """Ends a `fit` that needs a measurement which is not made yet. No error: a kind must not catch it."""

    def __init__(self, missing: Measurement) -> None:
        super().__init__(missing)
        self.missing = missing


@dataclass(frozen=True)
class TrainingValues:
    """The values of a feature in the training rows. Nothing is read before one of the methods is called.

    A `fit` that calls one may be run several times: it must do the same each time.
    """

    name: str
    """The feature's, for messages."""
    measured: Mapping[Measurement, pl.DataFrame]
    """What was measured so far."""
    flat: bytes | None = None
    """See `Measurement.flat`."""
    until: int = FOREVER
    """When training ends, ms UTC."""
    adds: bool = True
    """Whether counts add up from one packing to the next; those of a table of items or users do not."""
    earlier: EarlierTally | None = None
    """What an earlier packing knew of the values, if this one continues it."""
    tallies: dict[str, pl.DataFrame] = field(default_factory=dict)
    """Receives what `tally` returns, by the feature's name: state for later packings."""

    def flatten(self, lists: pl.Expr) -> Self:
        """Use the elements of lists, one a row: `lists` is an expression over the column `value`."""
        return replace(self, flat=lists.meta.serialize())

    def first(self) -> pl.Series:
        """Read the first value that is not null, if there is one: (1,) or (0,)."""
        return self._measure(FirstValue())["value"]

    def counts(self, at_least: int = 1) -> pl.DataFrame:
        """Count the distinct values that are not null: columns `value` and `count`, in no particular order.

        Args:
            at_least: values that are there less often are left out.
        """
        return self._measure(ValueCounts(at_least))

    def tally(self, settings: VocabularySettings) -> pl.DataFrame:
        """Count the distinct values as `counts` does, with the decayed counts of earlier packings.

        Returns:
            Columns `value`, `count` and `seen` (when last, ms UTC), ascending by value, without what is forgotten.

        Raises DataError for values that are no identifiers, or of another type than those of the earlier packing.
        """
        new = self._measure(ValueTally(self.until))
        new = new.with_columns(to_identifiers(new["value"], self.name).alias("value"))
        if self.earlier is not None and len(new) and len(self.earlier.tally):
            before = self.earlier.tally["value"]
            if before.dtype != new["value"].dtype:
                raise wrong_type(new["value"], before.dtype == pl.String, self.name)
        tally = merge_tally(new, self.until, self.adds, settings, self.earlier)
        self.tallies[self.name] = tally
        return tally

    def sample(self) -> pl.Series:
        """Draw about SAMPLE values that are not null, by a hash of the row number: requests are no pattern in it."""
        count = self._measure(KnownCount()).item()
        return self._measure(RowSample((SAMPLE << 64) // max(count, SAMPLE)))["value"]

    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the greatest value; None if there is none."""
        value_range = self._measure(ValueRange())
        return value_range["low"].item(), value_range["high"].item()

    def moments(self, log: bool = False) -> tuple[float | None, float | None]:
        """Mean and standard deviation of x, or of sign(x)·log(1 + |x|); None if there is no value."""
        low, high = self.bounds()
        if low is None or high is None:
            return None, None
        if log:
            low, high = (math.copysign(math.log1p(abs(bound)), bound) for bound in (low, high))
        mean = self._mean(max(abs(low), abs(high)), log, None)
        far = max(abs(low - mean), abs(high - mean))
        variance = self._mean(far * far, log, mean)
        return mean, math.sqrt(variance)

    def _mean(self, most: float, log: bool, around: float | None) -> float:
        """Order-independent mean of what `WholeSum` sums, of size `most` at most."""
        if not most:
            return 0.0
        if math.isinf(most):
            return math.inf
        count = self._measure(ValueRange())["count"].item()
        unit = 2.0 ** min(math.floor(62 - math.log2(count) - math.log2(most)), 1000)
        total = self._measure(WholeSum(unit, log, around))["sum"].item()
        return float(total) / unit / float(count)

    def _measure(self, measure: ColumnMeasure) -> pl.DataFrame:
        needed = Measurement(measure, self.flat)
        if needed not in self.measured:
            raise NotMeasured(needed)
        return self.measured[needed]


def fit_codes(values: TrainingValues, settings: VocabularySettings, rows: int | None) -> Vocabulary | Hash:
    """Learn a vocabulary of training values as the settings say, or a hash into `rows` rows if given.

    A packing that continues an earlier one keeps that one's values, in their order, but for those that are evicted;
    new ones follow, the most frequent first, ties by value.
    """
    if rows is not None:
        return Hash(rows, text=to_identifiers(values.first(), values.name).dtype == pl.String)
    return Vocabulary(choose_values(values.tally(settings), settings, values.earlier))
