"""The rows of a log, packed or not: of which split each is, and what is known of its labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from corank.batches.sampling import LabelCounts
from corank.core.time import FOREVER, MILLISECOND, NEVER
from corank.data.log_rows import log_columns, request_columns, row_splits
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import LoggedRequests
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import AS_OF, LEVEL, TIME, DataSettings, label_column, score_column
from corank.features.schema import Schema

SPLIT = "split"
"""The column that names a row's split; null if it is in none."""
EXPOSED = "@exposed"
"""Whether a row reached the last level: by the log's column, since the codes of LEVEL take four times as long."""


@dataclass(frozen=True)
class SplitRows:
    """A log's rows, read lazily."""

    data: DataSettings
    frame: pl.LazyFrame
    """Columns of `log_columns`, with LEVEL in any case, EXPOSED and SPLIT; of packed data those that are counted."""
    request: Sequence[str]
    """The columns that tell requests apart."""
    last: int
    """The time of the last row, ms UTC."""
    collect: Callable[[pl.LazyFrame], pl.DataFrame]
    """Computes a frame made of the rows. Raises DataError if the log cannot be read."""

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
        return cls(data, rows, [*request_columns(data).values()], last, log.collect)

    @classmethod
    def of_packed(cls, packed: PackedDataset, splits: Mapping[str, Sequence[LoggedRequests]]) -> "SplitRows":
        """Read requests of packed data by split, in which young labels are unknown."""
        data, exposed = packed.data, len(packed.data.levels) - 1
        frame = pl.concat(frame for split in splits.items() for frame in _shard_frames(data, *split)).lazy()
        rows = frame.with_columns((pl.col(LEVEL) == exposed).alias(EXPOSED), pl.lit(FOREVER).alias(AS_OF))
        return cls(data, rows, [_SHARD, _REQUEST], packed.manifest.last, pl.LazyFrame.collect)

    def label_sums(self, *fields: str) -> list[pl.Expr]:
        """How many candidates count in some fields of each label's `LabelCounts`: columns `LABEL FIELD`."""
        return [
            self.counts_as(name, field).sum().alias(f"{name} {field}")
            for name in self.data.labels
            for field in fields
        ]

    def counts_as(self, name: str, field: str) -> pl.Expr:
        """Whether a candidate counts in a field of a label's `LabelCounts`; null where it is never known."""
        return self._state(name) == LabelCounts._fields.index(field)

    def _state(self, name: str) -> pl.Expr:
        """The number of the field of `LabelCounts` in which a candidate counts; null where it is never known."""
        data = self.data
        time, as_of = pl.col(TIME), pl.lit(data.looked_at(self.last))
        if isinstance(data.as_of, str):
            as_of = pl.col(AS_OF).fill_null(NEVER)
        trained = pl.min_horizontal(pl.lit(data.labels_until()), as_of)
        looked = pl.when(time < data.training_end()).then(trained).otherwise(as_of)
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
        return state if data.labels[name].known else pl.when(EXPOSED).then(state)


def _field(name: str) -> pl.Expr:
    return pl.lit(LabelCounts._fields.index(name), pl.UInt8)


_SHARD, _REQUEST = "@shard", "@request"


def _shard_frames(data: DataSettings, split: str, shards: Sequence[LoggedRequests]) -> Iterator[pl.DataFrame]:
    """A row a candidate of each shard."""
    for n, shard in enumerate(shards):
        request = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
        columns = {_REQUEST: request, TIME: shard.time[request], LEVEL: np.asarray(shard.level)}
        labels = {label_column(name): np.asarray(values) for name, values in shard.labels.items()}
        scores = {score_column(name): np.asarray(values) for name, values in shard.scores.items()}
        yield pl.DataFrame(columns | labels | scores).with_columns(
            pl.lit(split, pl.Enum(data.split_names)).alias(SPLIT),
            pl.lit(n).alias(_SHARD),
            *(pl.when(pl.col(name) >= 0).then(pl.col(name)) for name in labels),
            *(pl.col(name).fill_nan(None) for name in scores),
        )
