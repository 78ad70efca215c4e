"""The rows of a log that is not packed: of which split each is, and what is known of its labels."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from corank.batches.sampling import LabelCounts
from corank.core.time import MILLISECOND, to_ms
from corank.data.log_rows import log_columns, row_splits
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import LEVEL, TIME, DataSettings, label_column
from corank.features.schema import Schema

SPLIT = "split"
"""The column that names a row's split; null if it is in none."""
EXPOSED = "@exposed"
"""Whether a row reached the last level: by the log's column, since the codes of LEVEL take four times as long."""


@dataclass(frozen=True)
class SplitRows:
    """A log's rows, read lazily."""

    log: Table
    data: DataSettings
    frame: pl.LazyFrame
    """Columns of `log_columns`, with LEVEL in any case, EXPOSED and SPLIT."""
    last: int
    """The time of the last row, ms UTC."""

    @classmethod
    def of(
        cls, log: Table, data: DataSettings, schema: Schema, sources: Mapping[str, Source], last: int
    ) -> "SplitRows":
        """Read a log that `LogSummary.read` accepts, with the features that `sources` say are read from it."""
        names = pl.Enum(data.split_names)  # many rows are grouped by it, and text takes twice the time
        split = pl.lit(None, names)
        for name, inside in row_splits(data).items():
            split = pl.when(inside).then(pl.lit(name, names)).otherwise(split)
        exposed = (
            pl.lit(True) if data.level is None else pl.col(data.level).cast(pl.String) == data.levels[-1]
        )
        columns = [*log_columns(log, data, schema, dict(sources)), exposed.alias(EXPOSED)]
        rows = log.frame.select(columns).with_columns(split.alias(SPLIT))
        if data.level is None:
            rows = rows.with_columns(pl.lit(len(data.levels) - 1, pl.UInt8).alias(LEVEL))
        return cls(log, data, rows, last)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Compute a frame made of the rows. Raises DataError if the log cannot be read."""
        return self.log.collect(frame)

    def label_sums(self, *fields: str) -> list[pl.Expr]:
        """How many candidates count in some fields of each label's `LabelCounts`: columns `LABEL FIELD`."""
        return [
            self.counts_as(name, field).sum().alias(f"{name} {field}")
            for name in self.data.labels
            for field in fields
        ]

    def counts_as(self, name: str, field: str) -> pl.Expr:
        """Whether a candidate counts in a field of a label's `LabelCounts`; null if it was not exposed."""
        return self._state(name) == LabelCounts._fields.index(field)

    def _state(self, name: str) -> pl.Expr:
        """The number of the field of `LabelCounts` in which a candidate counts; null if it was not exposed."""
        data = self.data
        time, end = pl.col(TIME), data.training_end()
        as_of = to_ms(data.instant(data.as_of)) if data.as_of else self.last
        looked = pl.when(time < end).then(min(end, as_of)).otherwise(as_of)
        young = time + data.matures(name) // MILLISECOND > looked
        value = pl.col(label_column(name))
        state = (
            pl.when(value.is_null()).then(_field("null"))
            .when(young if data.matures(name) else pl.lit(False)).then(_field("immature"))
            .when(value == 1).then(_field("positives"))
            .otherwise(_field("negatives"))
        )  # fmt: skip
        condition = data.labels[name].given
        while condition is not None:
            happened = (pl.col(label_column(condition)) == 1).fill_null(False)
            state = pl.when(happened).then(state).otherwise(_field("excluded"))
            condition = data.labels[condition].given
        return pl.when(EXPOSED).then(state)


def _field(name: str) -> pl.Expr:
    return pl.lit(LabelCounts._fields.index(name), pl.UInt8)
