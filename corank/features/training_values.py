"""The training values of one feature, and what a kind may measure of them when it is fitted."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import polars as pl

SAMPLE = 2**20
"""Values, at most, from which quantiles are taken."""


@dataclass(frozen=True)
class TrainingValues:
    """The values of a feature in the training rows. Nothing is read before one of the methods is called."""

    name: str
    """The feature's, for messages."""
    frame: pl.LazyFrame
    """One column, `value`."""
    collect: Callable[[pl.LazyFrame], pl.DataFrame]
    """Reads a frame; raises DataError, which names the file, for a table that cannot be read."""

    def with_frame(self, frame: pl.LazyFrame) -> Self:
        """Use other values, such as those of lists, one a row."""
        return replace(self, frame=frame)

    def first(self) -> pl.Series:
        """Read the first value that is not null, if there is one: (1,) or (0,)."""
        return self.collect(self.frame.drop_nulls().head(1))["value"]

    def counts(self) -> pl.DataFrame:
        """Count the distinct values: columns `value` and `count`, in no particular order."""
        return self.collect(self.frame.group_by("value").agg(pl.len().alias("count")))

    def sample(self) -> pl.Series:
        """Draw at most SAMPLE values that are not null, by a hash of the row number: requests are no pattern in it."""
        known = self.frame.drop_nulls()
        stride = -(-self.collect(known.select(pl.len())).item() // SAMPLE)
        if stride > 1:
            row = pl.col("row").cast(pl.UInt64)
            drawn = row * pl.lit(0x9E3779B97F4A7C15, pl.UInt64) // 2**32 % stride == 0
            known = known.with_row_index("row").filter(drawn).select("value")
        return self.collect(known)["value"]

    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the greatest value; None if there is none."""
        value = pl.col("value").cast(pl.Float64)
        low, high = self.collect(self.frame.select(value.min().alias("low"), value.max().alias("high"))).row(
            0
        )
        return (0.0, 0.0) if low is None else (low, high)

    def moments(self, log: bool = False) -> tuple[float | None, float | None]:
        """Mean and standard deviation of x, or of sign(x)·log(1 + |x|); None if there is no value."""
        value = pl.col("value").cast(pl.Float64)
        if log:
            value = value.sign() * value.abs().log1p()
        mean = self._mean(value)
        variance = None if mean is None else self._mean((value - mean) ** 2)
        return mean, None if variance is None else math.sqrt(variance)

    def _mean(self, of: pl.Expr) -> float | None:
        """Order-independent mean: quantise to multiples of a power of two and sum as integers.

        So the order in which threads add up cannot change it.
        """
        bounds = of.count().alias("count"), of.abs().max().alias("most")
        count, most = self.collect(self.frame.select(bounds)).row(0)
        if not count or not most:
            return 0.0 if count else None
        if math.isinf(most):
            return math.inf
        unit = 2.0 ** min(math.floor(62 - math.log2(count) - math.log2(most)), 1000)
        total = self.collect(self.frame.select((of * unit).round().cast(pl.Int64).sum())).item()
        return float(total) / unit / float(count)
