"""`kind: prior`: what happened before to candidates with the same values, or how many events there were of them."""

import math
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from annotated_types import MinLen
from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from corank.core.errors import ConfigError
from corank.core.settings import Duration, format_duration, require_known
from corank.core.time import MILLISECOND, floor_times
from corank.core.types import Doubles, Hashes
from corank.features.encoding import mix_hashes
from corank.features.feature_kind import FEATURE_KINDS, FeatureSet, Use
from corank.features.history import check_grid
from corank.features.log_schema import ROW, TIME, WEIGHT, DataSettings, Labels, find_exposed
from corank.features.operands import OperandRows
from corank.features.priors import USUAL, CountedFeature, Memory, PointInTime
from corank.features.scale import ScaledFeature


def _read_smoothing(value: object) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise PydanticCustomError("smoothing", "expected a number above 0, or auto")


@FEATURE_KINDS.register("prior")
class PriorFeature(ScaledFeature):
    """What happened before to candidates with the same values of `by`, at the last snapshot before the request.

    With a label its smoothed rate, (n₁ + s·r) / (n + s), of the n exposed candidates whose label is known, n₁ of them
    1; r is the rate of all and s the smoothing. Without one log(1 + n) of the exposed, scaled.

    With `window` only the latest periods count. With `half_life` H a period that was over a time t before the snapshot
    counts 2^(−t/H). Both hold for n, n₁ and r.

    With `events` it counts the events of a table of `data.events` in the place of exposed candidates.
    """

    kind: Literal["prior"] = "prior"
    by: Annotated[list[str], MinLen(1)]
    """The features whose values are the key of the counts."""
    label: str | None = None
    """The label whose rate it is; without one it counts."""
    events: str | None = None
    """The table of `data.events` whose events are counted; the log's exposed candidates unless given."""
    every: Duration = timedelta(days=1)
    """Snapshots are taken at multiples of this, in the data's time zone."""
    lag: Duration = timedelta()
    """A snapshot does not know what happened less than so long before it."""
    window: Duration | None = None
    """Only the periods within so long before the snapshot count; a multiple of `every`."""
    half_life: Duration | None = None
    """What happened so much earlier counts half as much."""
    smoothing: Annotated[float | Literal["auto"], BeforeValidator(_read_smoothing)] = USUAL
    """Candidates of the rate of all that are added to a key's own; `auto`: fitted to the training rows by key."""

    operands_key: ClassVar[str] = "by"
    operands_text: ClassVar[str] = "features of kind id or bucket"

    @property
    def operands(self) -> Sequence[str]:
        """Those of `by`."""
        return self.by

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """A key each."""
        return [{"key"}] * len(self.by)

    @property
    def snapshot_every(self) -> timedelta | None:
        """Its `every`."""
        return self.every

    @property
    def as_prior(self) -> CountedFeature | None:
        """Itself."""
        return self

    @property
    def memory(self) -> Memory:
        """How long a period counts."""
        return Memory.of(self.every, self.window, self.half_life)

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        check_grid(self.every)
        if self.window is not None and self.half_life is not None:
            raise ValueError("window and half_life both say how the past is forgotten; write one of them")
        if self.window is not None and (not self.window or self.window % self.every):
            every = format_duration(self.every)
            raise ValueError(f"window must be a multiple of every ({every}), so that whole periods count")
        if self.events is not None and self.label is not None:
            raise ValueError("events and label exclude each other, as events have no labels; drop one")
        if self.smoothing == "auto" and self.label is None:
            raise ValueError("smoothing is of a rate; name its label, or drop smoothing")
        if self.half_life is not None and not self.half_life:
            raise ValueError("half_life must be above 0s")
        return self

    @property
    def made_of(self) -> str:
        """Its keys, and the events that it counts."""
        keys = ", ".join(self.by)
        return f"{keys}, events.{self.events}" if self.events else keys

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError if a key is none, or is of the context and events are counted, which have none."""
        super().check(name, schema)
        for key in self.by:
            if self.events is not None and schema.side(key) == "context":
                raise ConfigError(
                    f"features.{name}.by: '{key}' is a context feature, which the events of '{self.events}' do not "
                    "have; name features of items and users"
                )

    def check_data(self, name: str, schema: FeatureSet, data: DataSettings) -> None:
        """Raise ConfigError if its label, or its table of events, does not exist."""
        if self.events is not None:
            require_known(self.events, data.events, f"features.{name}.events", "table", "data.events")
        if self.label is not None:
            require_known(self.label, data.labels, f"features.{name}.label", "label", "data.labels")

    def known_after(self, data: DataSettings) -> timedelta:
        """How long after a candidate, or an event, it may be counted: the lag, and the time its label matures in."""
        return self.lag + (data.matures(self.label) if self.label else timedelta())

    def keys(self, operands: OperandRows) -> Hashes:
        """One hash of the values of `by`, 0 if one is missing: (N,)."""
        return mix_hashes([operands.key(operand) for operand in self.by])

    def count(
        self, rows: pl.DataFrame, data: DataSettings, labels: Labels, operands: OperandRows
    ) -> pl.DataFrame:
        """List what it counts of candidates, a row each.

        Args:
            rows: those of the log, with the columns of `row_columns`: (C,).
            labels: as they are in the end.
            operands: of the candidates: (C,).

        Returns:
            `key` (0: none), `period` in which it becomes known (ms UTC), `shown` and `positive` (weights), `row`.
        """
        label = labels[self.label] if self.label else None
        chosen = np.flatnonzero(find_exposed(rows, data) if label is None else label >= 0)
        weight = rows[WEIGHT].to_numpy().astype(np.float64) if data.weight else np.ones(len(rows))
        positive = weight[chosen] * (0.0 if label is None else label[chosen] == 1)
        return self._weigh(rows[chosen], data, operands.take(chosen), weight[chosen], positive)

    def count_events(self, rows: pl.DataFrame, data: DataSettings, operands: OperandRows) -> pl.DataFrame:
        """List what it counts of events, one each, with the columns that `count` gives.

        Args:
            rows: TIME and ROW of each: (E,).
            operands: of their users and items: (E,).
        """
        return self._weigh(rows, data, operands, np.ones(len(rows)), np.zeros(len(rows)))

    def _weigh(
        self, rows: pl.DataFrame, data: DataSettings, operands: OperandRows, shown: Doubles, positive: Doubles
    ) -> pl.DataFrame:
        time = rows[TIME].to_numpy() + self.known_after(data) // MILLISECOND
        return pl.DataFrame(
            {
                "key": self.keys(operands),
                "period": floor_times(time, self.every, data.timezone),
                "shown": shown,
                "positive": positive,
                "row": rows[ROW],
            }
        )

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The rate, or how often, at each row's time: (N,)."""
        return when.counted(self, operands)
