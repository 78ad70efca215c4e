"""What may be measured of a column when features are fitted: counts, bounds, sums, samples.

Letters: N values of a part.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from corank.core.hash_index import splitmix64
from corank.core.time import FOREVER, NEVER
from corank.core.types import Longs

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


def count_values(values: pl.Series) -> pl.DataFrame:
    """Count the distinct values that are not null: columns `value` and `count`, in no particular order."""
    known = values.drop_nulls()
    if (low := _dense_from(known)) is not None:
        counts = np.bincount(known.cast(pl.Int64).to_numpy() - low)  # ten times as fast as a hash table
        offsets = np.flatnonzero(counts)
        value = pl.Series("value", offsets + low).cast(known.dtype)
        return pl.DataFrame([value, pl.Series("count", counts[offsets])])
    return known.to_frame("value").group_by("value").agg(count=pl.len().cast(pl.Int64))


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
        known = values.is_not_null()
        known_values, when = values.filter(known), times[known.to_numpy()]
        if (low := _dense_from(known_values)) is not None:
            index = known_values.cast(pl.Int64).to_numpy() - low
            counts = np.bincount(index)
            seen = np.full(len(counts), NEVER)
            np.maximum.at(seen, index, when)
            offsets = np.flatnonzero(counts)
            value = pl.Series("value", offsets + low).cast(known_values.dtype)
            return pl.DataFrame(
                [value, pl.Series("count", counts[offsets]), pl.Series("seen", seen[offsets])]
            )
        frame = known_values.to_frame("value").with_columns(seen=pl.Series(when, dtype=pl.Int64))
        return frame.group_by("value").agg(pl.len().cast(pl.Int64).alias("count"), pl.col("seen").max())

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
