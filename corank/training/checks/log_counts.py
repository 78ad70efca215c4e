"""Counts of a log that is not packed yet: rows by split, level and label, requests, and the values of each feature.

Exact duplicates of a candidate, which packing drops, are counted. Rates of features are of candidates: an item's value
counts as often as the item is a candidate. Of items and users the newest row counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from corank.batches.sampling import LabelCounts, MixedCounts, SplitCounts
from corank.core.time import MILLISECOND, to_ms
from corank.data.column_sources import feature_columns
from corank.data.log_rows import log_columns, request_columns, row_splits
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import (
    FROM,
    ID,
    ITEM,
    LEVEL,
    TIME,
    USER,
    DataSettings,
    label_column,
    score_column,
)
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
        cls, log: Table, data: DataSettings, schema: Schema, sources: dict[str, Source], last: int
    ) -> "SplitRows":
        """Read a log that `LogSummary.read` accepts, with the features that `sources` say are read from it."""
        names = pl.Enum(data.split_names)  # many rows are grouped by it, and text takes twice the time
        split = pl.lit(None, names)
        for name, inside in row_splits(data).items():
            split = pl.when(inside).then(pl.lit(name, names)).otherwise(split)
        exposed = (
            pl.lit(True) if data.level is None else pl.col(data.level).cast(pl.String) == data.levels[-1]
        )
        columns = [*log_columns(log, data, schema, sources), exposed.alias(EXPOSED)]
        rows = log.frame.select(columns).with_columns(split.alias(SPLIT))
        if data.level is None:
            rows = rows.with_columns(pl.lit(len(data.levels) - 1, pl.UInt8).alias(LEVEL))
        return cls(log, data, rows, last)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Compute a frame made of the rows. Raises DataError if the log cannot be read."""
        return self.log.collect(frame)

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


SIZE = "size"
"""The column of the number of a request's candidates."""


@dataclass(frozen=True)
class RequestCounts:
    """The requests of a split by what they hold."""

    candidates: Mapping[int, int]
    """Number of candidates → requests that have so many."""
    positives: Mapping[str, Mapping[int, int]]
    """Label → number of positives → requests that have so many."""
    ordered: Mapping[str, int]
    """Label → requests with a positive and a negative: those that a list-wise loss and a metric by request can use."""


@dataclass(frozen=True)
class LogCounts:
    """The counts of each split, and the labels that stand where they mean nothing."""

    splits: Mapping[str, SplitCounts]
    misplaced: Mapping[str, Mapping[str, int]]
    """Label → level above the exposed one → ones of the label on its candidates, which training ignores."""
    requests: Mapping[str, RequestCounts]


def count_log(rows: SplitRows) -> LogCounts:
    """Count a log in two streamed passes; memory grows with its requests, not its candidates."""
    data = rows.data
    kinds = [(name, kind) for name in data.labels for kind in LabelCounts._fields]
    sums = [rows.counts_as(n, kind).sum().alias(f"{n} {kind}") for n, kind in kinds]
    ones = [(pl.col(label_column(n)) == 1).sum().alias(f"{n} ones") for n in data.labels]
    scored = [pl.col(score_column(name)).is_not_null().sum().alias(f"{name} scored") for name in data.scores]
    totals = rows.collect(rows.frame.group_by(SPLIT, LEVEL).agg(*sums, *ones, *scored)).sort(SPLIT, LEVEL)
    by_level = totals.rows(named=True)
    request = list(request_columns(data).values())
    known = [s for s in sums if s.meta.output_name().endswith((" positives", " negatives"))]
    levels = rows.collect(rows.frame.group_by(SPLIT, *request, LEVEL).agg(pl.len().alias(SIZE), *known))
    sizes = levels.group_by(SPLIT, LEVEL, SIZE).agg(pl.len()).sort(SPLIT, LEVEL, SIZE).rows()
    requests = levels.group_by(SPLIT, *request).agg(pl.exclude(LEVEL).sum())
    counts = dict(requests.group_by(SPLIT).agg(pl.len()).rows())
    of_split = {name: requests.filter(pl.col(SPLIT) == name) for name in data.split_names}
    mixed = {name: _mixed(data, frame) for name, frame in of_split.items()}
    return LogCounts(
        {
            name: _split(data, name, counts.get(name, 0), by_level, sizes, mixed[name])
            for name in data.split_names
        },
        _misplaced(data, by_level),
        {name: _requests(data, frame, mixed[name]) for name, frame in of_split.items()},
    )


def _mixed(data: DataSettings, requests: pl.DataFrame) -> dict[str, MixedCounts]:
    """Count, by label, the requests of one split that have a positive and a negative, and these."""
    counts = {}
    for name in data.labels:
        kinds = [f"{name} positives", f"{name} negatives"]
        both = requests.filter(pl.all_horizontal(pl.col(kind) > 0 for kind in kinds))
        counts[name] = MixedCounts(both.height, *(int(both[kind].sum()) for kind in kinds))
    return counts


def _requests(data: DataSettings, requests: pl.DataFrame, mixed: Mapping[str, MixedCounts]) -> RequestCounts:
    """Count the requests of one split, each a row with its SIZE and what is known of the labels."""

    def histogram(column: str) -> dict[int, int]:
        return dict(requests.group_by(column).agg(pl.len()).sort(column).rows())

    positives = {name: histogram(f"{name} positives") for name in data.labels}
    return RequestCounts(
        histogram(SIZE), positives, {name: counts.requests for name, counts in mixed.items()}
    )


def _split(
    data: DataSettings,
    split: str,
    requests: int,
    by_level: Iterable[Mapping[str, Any]],
    sizes: Iterable[tuple[Any, ...]],
    mixed: Mapping[str, MixedCounts],
) -> SplitCounts:
    level_rows = {row[LEVEL]: row for row in by_level if row[SPLIT] == split}
    exposed = level_rows.get(len(data.levels) - 1, {})
    return SplitCounts(
        requests,
        [
            {size: count for of, at, size, count in sizes if (of, at) == (split, level)}
            for level in range(len(data.levels))
        ],
        {
            name: LabelCounts(*(exposed.get(f"{name} {kind}", 0) for kind in LabelCounts._fields))
            for name in data.labels
        },
        mixed,
        {
            name: [level_rows.get(level, {}).get(f"{name} scored", 0) for level in range(len(data.levels))]
            for name in data.scores
        },
    )


def _misplaced(data: DataSettings, by_level: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    ones: dict[str, dict[str, int]] = {name: {} for name in data.labels}
    for row in by_level:
        for name in data.labels:
            level = data.levels[row[LEVEL]]
            if level != data.levels[-1] and row[f"{name} ones"]:
                ones[name][level] = ones[name].get(level, 0) + row[f"{name} ones"]
    return {name: levels for name, levels in ones.items() if levels}


COUNT, POSITIVES, KNOWN = "@count", "@positives", "@known"


@dataclass(frozen=True)
class Familiarity:
    """How much of a split has values that training has seen."""

    candidates: float
    """Share of its candidates that have a value, 0 to 1."""
    positives: float | None
    """Share of the positives of the main label; None if there are none."""


@dataclass(frozen=True)
class FeatureFacts:
    """Statistics of the values of one column, or of the ids of items or users."""

    name: str
    """The feature, or `item`, or `user`."""
    source: Source
    """The table that it is read from."""
    familiar: Mapping[str, Familiarity]
    """By split but `train`, in their order; empty if it is no id."""
    missing: Mapping[str, float]
    """By split: the share of its candidates that lack it, 0 to 1."""
    values: int | None
    """Distinct values of the training rows; None of lists."""
    rows: int
    """Items or users of the training rows; of a column of the log its training candidates."""


@dataclass(frozen=True)
class CountedRows:
    """Rows of one key, counted by split: columns SPLIT, COUNT, POSITIVES and some values."""

    frame: pl.DataFrame
    source: Source

    def facts(self, name: str, column: str, identifies: bool, missing: pl.Expr) -> FeatureFacts:
        """Compute the facts of a column.

        Args:
            name: of the feature.
            column: of the frame.
            identifies: whether its values are ids, of which training knows some.
            missing: whether a value is missing.
        """
        rows = self.frame.filter(pl.col(SPLIT).is_not_null())
        total = rows.group_by(SPLIT).agg(pl.col(COUNT, POSITIVES).sum()).sort(SPLIT)
        lacking = rows.filter(missing).group_by(SPLIT).agg(pl.col(COUNT).sum())
        counts = {split: (count, positives) for split, count, positives in total.rows()}
        rates = dict.fromkeys(counts, 0.0) | {s: n / counts[s][0] for s, n in lacking.rows()}
        training = rows.filter(pl.col(SPLIT) == "train")
        nested = rows.schema[column].is_nested()
        familiar = self._familiar(rows.drop_nulls(column), column) if identifies and not nested else {}
        return FeatureFacts(
            name,
            self.source,
            familiar,
            rates,
            None if nested else training[column].drop_nulls().n_unique(),
            len(training) if self.source != "log" else counts.get("train", (0, 0))[0],
        )

    def _familiar(self, rows: pl.DataFrame, column: str) -> dict[str, Familiarity]:
        """Of the rows that have a value, those whose value a row of the split `train` has, too."""
        training = rows.filter(pl.col(SPLIT) == "train").select(column).unique()
        known = rows.with_columns(pl.col(column).is_in(training[column].implode()).alias(KNOWN))
        sums = known.group_by(SPLIT).agg(
            pl.col(COUNT, POSITIVES).sum(), pl.col(COUNT, POSITIVES).filter(KNOWN).sum().name.suffix(" known")
        )
        return {
            split: Familiarity(seen / count, seen_positives / positives if positives else None)
            for split, count, positives, seen, seen_positives in sums.sort(SPLIT).rows()
            if split != "train"
        }


def measure_features(
    rows: SplitRows,
    schema: Schema,
    sources: dict[str, Source],
    tables: Mapping[str, Table],
    label: str,
) -> list[FeatureFacts]:
    """Measure the ids of items and users, and every column that a feature reads.

    Args:
        rows: with the log's columns of features.
        schema: the features.
        sources: the table that each feature is read from.
        tables: by name.
        label: whose positives are counted.
    """
    positives = rows.counts_as(label, "positives").sum().cast(pl.Int64).alias(POSITIVES)
    counted = pl.len().cast(pl.Int64).alias(COUNT), positives
    facts: list[FeatureFacts] = []
    for source, key, column in (("items", ITEM, rows.data.item), ("users", USER, rows.data.user)):
        keys = rows.collect(rows.frame.group_by(SPLIT, key).agg(*counted))
        of_source: Source = "items" if source == "items" else "users"
        named = [n for n, s in sources.items() if s == source and schema.column(n) != column]
        if source in tables:
            columns = [c for c in feature_columns(schema, sources, of_source) if c != column]
            keys = keys.join(_newest(tables[source], column, columns), left_on=key, right_on=ID, how="left")
        counted_rows = CountedRows(keys, of_source)
        facts.append(counted_rows.facts(source.removesuffix("s"), key, True, pl.col(key).is_null()))
        facts += [_facts(counted_rows, schema, n) for n in named]
    for name in (name for name, source in sources.items() if source == "log"):
        column = schema.column(name)
        values = rows.collect(rows.frame.group_by(SPLIT, column).agg(*counted))
        facts.append(_facts(CountedRows(values, "log"), schema, name))
    return facts


def _facts(rows: CountedRows, schema: Schema, name: str) -> FeatureFacts:
    """The facts of a feature; as an id if it distinguishes single values."""
    feature, column = schema.columns()[name], schema.column(name)
    return rows.facts(name, column, "id" in feature.uses, feature.is_missing(column))


def _newest(table: Table, key: str, columns: Sequence[str]) -> pl.DataFrame:
    """The newest row of each id: ID and columns."""
    chosen = table.frame.select(table.key(key).alias(ID), table.valid_from().alias(FROM), *table.own(columns))
    newest = table.collect(chosen).sort(FROM, maintain_order=True).unique(ID, keep="last").drop(FROM)
    return table.look_up(newest, ID, columns)
