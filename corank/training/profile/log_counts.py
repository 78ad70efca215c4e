"""Counts of a log that is not packed yet: those that packed data give, and a few more.

Exact duplicates of a candidate, which packing drops, are counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from corank.batches.label_counts import LabelCounts, MixedCounts, SplitCounts
from corank.data.log_rows import request_columns
from corank.features.log_schema import DataSettings
from corank.features.row_columns import LEVEL, label_column, score_column
from corank.training.profile.split_rows import SPLIT, SplitRows

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
