"""`kind: time`: a point in time, from which ages are derived. No network reads it."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import model_validator

from corank.core.time import DAY, MILLISECOND
from corank.core.types import Doubles
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, Use
from corank.features.histories.event_lists import to_times


@FEATURE_KINDS.register("time")
class TimeFeature(ColumnFeature):
    """A point in time: a datetime (without a zone: UTC), a date, or whole ms since 1970; ISO 8601, too, in requests."""

    kind: Literal["time"]
    input: bool = False
    """No network reads it."""

    uses: ClassVar[frozenset[Use]] = frozenset({"time"})

    @model_validator(mode="after")
    def _check_no_input(self) -> Self:
        if self.input:
            raise ValueError("no network reads a time; derive a feature of kind age from it")
        return self

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect times."""
        fits = dtype.is_integer() or isinstance(dtype, pl.Datetime) or dtype in (pl.Date, pl.Null)
        return None if fits else f"datetimes, dates or whole ms, as features.{name} is of kind time"

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Days since 1970, 0 for missing: (N,). To check values, since no network reads them."""
        days: Doubles = self.numbers(values, name) / (DAY / MILLISECOND)
        return np.nan_to_num(days).astype(np.float32)

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        """Ms since 1970 UTC, NaN where missing: (N,). Raises DataError for what is no time."""
        ms, known = to_times(values, f"feature '{name}'")
        return np.where(known, ms, np.nan)

    def dtype(self, encoder: Encoder | None) -> pl.DataType:
        """Ms since 1970."""
        return pl.Int64()

    def to_table(self, value: Any) -> Any:
        """Write ISO 8601 as ms since 1970."""
        if not isinstance(value, str):
            return value
        return int(to_times(pl.Series([value]), "a time")[0][0])
