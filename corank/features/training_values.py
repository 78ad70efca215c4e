"""The training values of one feature, and what a kind may measure of them when it is fitted.

Measurements are made of parts, by many tasks at once, and merged: the result is the same however the rows are cut.
What a `fit` asks for is only known when it runs. So it runs with what was measured; if that does not do, the missing
measurement is made and it runs again.

Letters: N values of a part.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import polars as pl

from corank.core.time import FOREVER
from corank.core.types import Longs
from corank.features.counts.column_measures import (
    ColumnMeasure,
    FirstValue,
    KnownCount,
    RowSample,
    ValueCounts,
    ValueRange,
    ValueTally,
    WholeSum,
)
from corank.features.counts.growth import EarlierTally, VocabularySettings, choose_values, merge_tally
from corank.features.vocabulary import Hash, Vocabulary, to_identifiers, wrong_type

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
