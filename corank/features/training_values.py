"""The training values of one feature, and what a kind may measure of them when it is fitted.

Measurements are made of parts, by many tasks at once, and merged: the result is the same however the rows are cut.
What a `fit` asks for is only known when it runs. So it runs with what was measured; if that does not do, the missing
measurement is made and it runs again.

Letters: N values of a part.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import polars as pl

from corank.core.hash_index import splitmix64
from corank.core.types import Longs

SAMPLE = 2**20
"""Values, about, from which quantiles are taken; all if there are fewer."""
DENSE = 4
"""Whole numbers whose range is at most so many times their number are counted in an array."""


class ColumnMeasure(ABC):
    """A measurement of a column. A subclass is a frozen dataclass: two that are equal measure the same."""

    by_value: ClassVar[bool] = False
    """Whether a part has a row for each distinct `value`, so that parts are spread by value before they are merged."""

    @abstractmethod
    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """ColumnMeasure a part of the column: values and the numbers of their rows in the table, (N,), (N,)."""

    @abstractmethod
    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Merge parts that stand one below the other, in the order of their rows: into a part again."""

    def finish(self, merged: pl.DataFrame) -> pl.DataFrame:
        """Make the result of all parts, merged."""
        return merged


def count_values(values: pl.Series) -> pl.DataFrame:
    """Count the distinct values that are not null: columns `value` and `count`, in no particular order."""
    known = values.drop_nulls()
    if known.dtype.is_integer() and len(known):
        low, high = int(known.min()), int(known.max())  # type: ignore[arg-type]
        if high - low < DENSE * len(known) and low > -(2**62) and high < 2**62:
            counts = np.bincount(known.cast(pl.Int64).to_numpy() - low)  # ten times as fast as a hash table
            found = np.flatnonzero(counts)
            value = pl.Series("value", found + low).cast(known.dtype)
            return pl.DataFrame([value, pl.Series("count", counts[found])])
    return known.to_frame("value").group_by("value").agg(count=pl.len().cast(pl.Int64))


@dataclass(frozen=True)
class FirstValue(ColumnMeasure):
    """The first value that is not null, if there is one: column `value`."""

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
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

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
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

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
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

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
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

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """Count those of the part."""
        return pl.DataFrame({"count": [len(values) - values.null_count()]}, schema={"count": pl.Int64})

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Add the counts up."""
        return parts.sum()


@dataclass(frozen=True)
class RowSample(ColumnMeasure):
    """The known values of the rows whose number has a hash below `limit`, of 2⁶⁴: column `value`."""

    limit: int

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """Draw those of the part."""
        drawn = values.is_not_null()
        if self.limit < 2**64:
            drawn &= pl.Series(splitmix64(rows.view(np.uint64)) < np.uint64(self.limit))
        return values.filter(drawn).to_frame("value")

    def merge(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Keep all."""
        return parts


@dataclass(frozen=True)
class Measurement:
    """What is measured, and of which values."""

    measure: ColumnMeasure
    flat: bytes | None = None
    """An expression, serialised, whose lists hold the values; None for the values of the column as they are."""

    def part(self, values: pl.Series, rows: Longs) -> pl.DataFrame:
        """ColumnMeasure a part of the column, as `ColumnMeasure.part` does."""
        if self.flat is None:
            return self.measure.part(values, rows)
        lists = values.to_frame("value").select(pl.Expr.deserialize(self.flat)).to_series()
        if isinstance(lists.dtype, pl.Array):
            lists = lists.arr.to_list()
        length = lists.list.len().fill_null(0)
        return self.measure.part(lists.filter(length > 0).explode(), np.repeat(rows, length.to_numpy()))


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

    def sample(self) -> pl.Series:
        """Draw about SAMPLE values that are not null, by a hash of the row number: requests are no pattern in it."""
        count = self._measure(KnownCount()).item()
        return self._measure(RowSample((SAMPLE << 64) // max(count, SAMPLE)))["value"]

    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the greatest value; None if there is none."""
        found = self._measure(ValueRange())
        return found["low"].item(), found["high"].item()

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
