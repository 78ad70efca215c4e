"""What a log that is not packed yet holds to learn from, in the counts that packed data give, and a few more.

Exact duplicates of a candidate, which packing drops, are counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from corank.batches.label_counts import LabelCounts, SplitCounts
from corank.core.time import MILLISECOND, to_ms
from corank.data.log_rows import log_columns, request_columns, row_splits
from corank.data.tables import Table
from corank.features.log_schema import DataSettings
from corank.features.row_columns import LEVEL, TIME, label_column, score_column
from corank.features.schema import Schema

SPLIT, SIZE = "split", "size"
"""Columns of the counts."""


@dataclass(frozen=True)
class LogCounts:
    """The counts of each split, and the labels that stand where they mean nothing."""

    splits: Mapping[str, SplitCounts]
    misplaced: Mapping[str, Mapping[str, int]]
    """Label → level above the exposed one → ones of the label on its candidates, which training ignores."""


def count_log(log: Table, data: DataSettings, schema: Schema, last: int) -> LogCounts:
    """Count a log in two streamed passes; memory grows with its requests, not its candidates.

    Args:
        log: a log that `LogSummary.read` accepts.
        data: its settings.
        schema: the features.
        last: the time of its last row, ms UTC.
    """
    split = pl.lit(None, pl.String)
    for name, inside in row_splits(data).items():
        split = pl.when(inside).then(pl.lit(name)).otherwise(split)
    rows = log.frame.select(log_columns(log, data, schema, {})).with_columns(split.alias(SPLIT))
    if data.level is None:
        rows = rows.with_columns(pl.lit(len(data.levels) - 1, pl.UInt8).alias(LEVEL))
    states = {name: _state(data, name, last) for name in data.labels}
    sums = [
        (states[n] == kind).sum().alias(f"{n} {kind}") for n in data.labels for kind in LabelCounts._fields
    ]
    ones = [(pl.col(label_column(n)) == 1).sum().alias(f"{n} ones") for n in data.labels]
    scored = [pl.col(score_column(name)).is_not_null().sum().alias(f"{name} scored") for name in data.scores]
    by_level = log.collect(rows.group_by(SPLIT, LEVEL).agg(*sums, *ones, *scored)).rows(named=True)
    request = list(request_columns(data).values())
    of_requests = rows.group_by(SPLIT, *request, LEVEL).agg(pl.len().alias(SIZE))
    sizes = log.collect(of_requests.group_by(SPLIT, LEVEL, SIZE).agg(pl.len())).rows()
    requests = log.collect(rows.select(SPLIT, *request).unique().group_by(SPLIT).agg(pl.len())).rows()
    held = dict(requests)
    return LogCounts(
        {name: _split(data, name, held.get(name, 0), by_level, sizes) for name in data.split_names},
        _misplaced(data, by_level),
    )


def _state(data: DataSettings, name: str, last: int) -> pl.Expr:
    """Name the field of `LabelCounts` in which a candidate counts; null if it was not exposed."""
    time, end = pl.col(TIME), data.training_end()
    as_of = to_ms(data.instant(data.as_of)) if data.as_of else last
    looked = pl.when(time < end).then(min(end, as_of)).otherwise(as_of)
    young = time + data.matures(name) // MILLISECOND > looked
    value = pl.col(label_column(name))
    state = (
        pl.when(value.is_null()).then(pl.lit("null"))
        .when(young if data.matures(name) else pl.lit(False)).then(pl.lit("immature"))
        .when(value == 1).then(pl.lit("positives"))
        .otherwise(pl.lit("negatives"))
    )  # fmt: skip
    given = data.labels[name].given
    while given is not None:
        happened = (pl.col(label_column(given)) == 1).fill_null(False)
        state = pl.when(happened).then(state).otherwise(pl.lit("excluded"))
        given = data.labels[given].given
    return pl.when(pl.col(LEVEL) == len(data.levels) - 1).then(state)


def _split(
    data: DataSettings,
    split: str,
    requests: int,
    by_level: Iterable[Mapping[str, Any]],
    sizes: Iterable[tuple[Any, ...]],
) -> SplitCounts:
    held = {row[LEVEL]: row for row in by_level if row[SPLIT] == split}
    exposed = held.get(len(data.levels) - 1, {})
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
        {
            name: [held.get(level, {}).get(f"{name} scored", 0) for level in range(len(data.levels))]
            for name in data.scores
        },
    )


def _misplaced(data: DataSettings, by_level: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {name: {} for name in data.labels}
    for row in by_level:
        for name in data.labels:
            level = data.levels[row[LEVEL]]
            if level != data.levels[-1] and row[f"{name} ones"]:
                found[name][level] = found[name].get(level, 0) + row[f"{name} ones"]
    return {name: levels for name, levels in found.items() if levels}
