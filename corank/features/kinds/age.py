"""`kind: time` and `kind: age`: when something was, and how long before the request that is."""

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import model_validator

from corank.core.errors import ConfigError
from corank.core.settings import Duration
from corank.core.time import DAY, MILLISECOND, NEVER
from corank.core.types import Doubles
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, FeatureSet, Side, Use
from corank.features.history import check_grid, to_times
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import ScaledFeature, Scaling


@FEATURE_KINDS.register("time")
class TimeFeature(ColumnFeature):
    """A point in time: a datetime (without a zone: UTC), a date, or whole ms since 1970; ISO 8601, too, in requests."""

    kind: Literal["time"] = "time"
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


@FEATURE_KINDS.register("age")
class AgeFeature(ScaledFeature):
    """The days from a time to the request, 0 if the time is later, missing if it is.

    With `every`, to the last multiple of it before the request: an item's age is then of the item's side. Without it
    that is of the pair, since it changes from request to request.
    """

    kind: Literal["age"] = "age"
    of: str
    """A feature of kind time."""
    every: Duration | None = None
    """Items: the step at which it is renewed, in the data's time zone."""

    default_scale: ClassVar[Scaling] = "log"
    operands_text: ClassVar[str] = "a feature of kind time"
    operand_uses: ClassVar[Sequence[Collection[Use]]] = [{"time"}]
    clips: ClassVar[bool] = True

    @property
    def operands(self) -> Sequence[str]:
        """The time."""
        return [self.of]

    @property
    def snapshot_every(self) -> timedelta | None:
        """Its `every`."""
        return self.every

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.every is not None:
            check_grid(self.every)
        return self

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """Of an item's time `item` with `every`, else `cross`; of a user's or a context's `context`."""
        if super().side_among(side_of) != "item":
            return "context"
        return "item" if self.every else "cross"

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError if it is of no time, or `every` has no effect."""
        super().check(name, schema)
        if self.every is not None and schema.side(name) != "item":
            raise ConfigError(f"features.{name}.every: has no effect on the request's '{self.of}'; drop it")

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Days (N,)."""
        then = when.times if self.every is None else when.snapshots.cuts(when.name, self.every, when.times)
        known = then != NEVER
        days = (np.where(known, then, 0) - operands.number(self.of)) / (DAY / MILLISECOND)
        return np.where(known, np.maximum(days, 0), np.nan)
