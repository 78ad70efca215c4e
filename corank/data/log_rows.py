"""Columns that packing reads of the log: keys, time, labels, level, weight, position, scores, values and features.

A log of impressions, each a row with lists of candidates, read as a row a candidate.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Floats
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.features.log_schema import (
    AS_OF,
    ITEM,
    LEVEL,
    POSITION,
    PROPENSITY,
    ROW,
    SPLIT,
    TIME,
    USER,
    WEIGHT,
    DataSettings,
    ListLog,
    Score,
    find_exposed,
    label_column,
    request_column,
    score_column,
    value_column,
)
from corank.features.schema import Schema
from corank.features.split import SplitColumns

LAST_POSITION = 127
"""Positions on the page beyond this one are read as this one."""


def log_columns(log: Table, data: DataSettings, schema: Schema, sources: dict[str, Source]) -> list[pl.Expr]:
    """Select all that packing needs of the log.

    Args:
        log: the table.
        data: its settings.
        schema: the features.
        sources: feature → the table that its column is read from.

    Returns:
        Expressions over the log. Columns that are no feature's are named as in `features.row_columns`.
    """
    columns = [
        *key_columns(log, data),
        log.key(data.user).alias(USER),
        log.moment(data.time).alias(TIME),
        *(pl.col(label.column).cast(pl.Int8).alias(label_column(n)) for n, label in data.labels.items()),
    ]
    if data.level is not None:
        level = pl.col(data.level).cast(pl.String)
        codes = range(len(data.levels))
        columns.append(level.replace_strict(data.levels, codes, return_dtype=pl.UInt8).alias(LEVEL))
    if isinstance(data.as_of, str):
        columns.append(log.moment(data.as_of).alias(AS_OF))
    if data.split.source is not None:
        columns.append(pl.col(data.split.source).alias(SPLIT))
    if data.weight is not None:
        columns.append(pl.col(data.weight).cast(pl.Float32).alias(WEIGHT))
    if data.position is not None:
        position = pl.col(data.position).cast(pl.Float64).clip(0, LAST_POSITION)
        columns.append(position.cast(pl.Int16).alias(POSITION))
    if data.propensity is not None:
        columns.append(pl.col(data.propensity).cast(pl.Float32).alias(PROPENSITY))
    columns += [pl.col(c).cast(pl.Float32).alias(value_column(c)) for c in data.columns if c in log.types]
    columns += [_logit(score).alias(score_column(name)) for name, score in data.scores.items()]
    features = schema.column_names(name for name, source in sources.items() if source == "log")
    return [*columns, *(_feature(log, column) for column in features)]


def read_single_columns(rows: pl.DataFrame, data: DataSettings) -> dict[str, NDArray[Any]]:
    """Read weights, positions and propensities of rows of `log_columns`, those that the log has, by name: (C,)."""
    columns: dict[str, NDArray[Any]] = {}
    if data.weight or data.propensity_weight:
        columns["weight"] = _weights(rows, data)
    if data.position:
        columns["position"] = rows[POSITION].fill_null(-1).to_numpy()
    if data.propensity:
        columns["propensity"] = rows[PROPENSITY].fill_null(np.nan).to_numpy()
    return columns


def _weights(rows: pl.DataFrame, data: DataSettings) -> Floats:
    """Weights of candidates, which of exposed ones of a random bucket are greater by 1 / propensity: (C,)."""
    weight: Floats = rows[WEIGHT].to_numpy() if data.weight else np.ones(len(rows), np.float32)
    if data.propensity_weight is None:
        return weight
    inverse = (1 / rows[PROPENSITY]).clip(upper_bound=data.propensity_weight).fill_null(1).to_numpy()
    return np.where(find_exposed(rows, data), weight * inverse, weight).astype(np.float32)


def _logit(score: Score) -> pl.Expr:
    value = pl.col(score.column).cast(pl.Float32)
    if score.scale == "logit":
        return value
    # the smallest distance below 1 in float32
    p = value.clip(2.0**-24, 1 - 2.0**-24)
    return (p / (1 - p)).log()


def _feature(table: Table, column: str) -> pl.Expr:
    kind = table.types[column]
    return pl.col(column).cast(pl.String) if isinstance(kind, pl.Categorical | pl.Enum) else pl.col(column)


def key_columns(table: Table, data: DataSettings) -> list[pl.Expr]:
    """Select what identifies a candidate, request key and item, from the log or the truth."""
    request = [table.key(column).alias(name) for column, name in request_columns(data).items()]
    return [*request, table.key(data.item).alias(ITEM)]


def truth_columns(truth: Table, data: DataSettings) -> list[pl.Expr]:
    """Select keys and probabilities from the table of true probabilities. Raises DataError if it has no label's."""
    labels = [name for name in data.labels if name in truth.types]
    truth.require(labels or list(data.labels)[:1])
    for name in labels:
        if not truth.types[name].is_numeric():
            raise truth.unfit(name, "probabilities")
    return [*key_columns(truth, data), *(pl.col(name).cast(pl.Float32) for name in labels)]


def find_truth(rows: pl.DataFrame, truth: pl.DataFrame, data: DataSettings) -> dict[str, Floats]:
    """Find the true probabilities of candidates: label → (C,).

    Args:
        rows: candidates.
        truth: rows of `truth_columns`.
        data: the settings of the log.

    Raises DataError if one is missing, or there are two.
    """
    named = request_columns(data) | {data.item: ITEM}
    keys = list(named.values())
    for column, key in named.items():
        if truth.schema[key] != rows.schema[key]:
            raise DataError(
                f"data.truth: column '{column}' is {truth.schema[key]}; expected {rows.schema[key]}, as in the log"
            )
    labels = [name for name in data.labels if name in truth.columns]
    joined = rows.select(keys).join(
        truth.unique([*keys, *labels]), on=keys, how="left", maintain_order="left"
    )
    if len(joined) > len(rows):
        raise DataError("data.truth: a candidate has two rows that differ")
    for name in labels:
        lacking = joined.filter(~pl.col(name).is_finite().fill_null(False))
        if len(lacking):
            item = lacking[ITEM][0]
            raise DataError(f"data.truth: no '{name}' of candidates of the log, such as {data.item}={item!r}")
    return {name: joined[name].to_numpy() for name in labels}


def request_columns(data: DataSettings) -> dict[str, str]:
    """Map the request key's columns of the log to their names among the rows."""
    return {column: request_column(n) for n, column in enumerate(data.request)}


def describe_request(rows: pl.DataFrame, row: int, data: DataSettings) -> str:
    """Name a row of the log by the key of its request, such as `request_id=7`."""
    return ", ".join(f"{column}={rows[name][row]!r}" for column, name in request_columns(data).items())


def constant_columns(data: DataSettings, schema: Schema, sources: dict[str, Source]) -> dict[str, str]:
    """Map the columns that must not change within a request from their names among the rows to the log's names."""
    query = schema.column_names(
        n for n, s in sources.items() if s == "log" and schema.placement(n) == "query"
    )
    split = {} if data.split.source is None else {SPLIT: data.split.source}
    return {USER: data.user, TIME: data.time} | split | {column: column for column in query}


def log_splits(log: Table, data: DataSettings) -> Mapping[str, pl.Expr]:
    """Make an expression over the log for each split: whether a row is in it."""
    value = None if data.split.source is None else pl.col(data.split.source)
    return data.select_splits(SplitColumns(log.moment(data.time), log.key(data.user), value))


def row_splits(data: DataSettings) -> Mapping[str, pl.Expr]:
    """Make an expression over rows of `log_columns` for each split: whether a row is in it."""
    value = None if data.split.source is None else pl.col(SPLIT)
    return data.select_splits(SplitColumns(pl.col(TIME), pl.col(USER), value))


def log_name(column: str, data: DataSettings) -> str:
    """Return the log's name of a column of the rows."""
    names = {USER: data.user, LEVEL: data.level, WEIGHT: data.weight, POSITION: data.position}
    names |= {PROPENSITY: data.propensity}
    names |= {value_column(name): name for name in data.columns}
    names |= {label_column(name): label.column for name, label in data.labels.items()}
    names |= {score_column(name): score.column for name, score in data.scores.items()}
    return names.get(column) or column


LONGEST = 2**20
"""Candidates of an impression, at most: the n-th of row r is the row r · LONGEST + n of the table."""
_PLACE = "@place"


def _explode_lists(settings: ListLog, item: str, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Make a row of every candidate of the rows of files, in order. Rows that are numbered in ROW are renumbered.

    An impression without candidates, or without a list, gives none. `item` is the column of candidates afterwards.
    """
    names = [settings.list, *settings.along]
    types = frame.collect_schema()
    numbered = ROW in types
    # fixed-size arrays become lists, too
    lists = [pl.col(name).cast(pl.List(types[name].inner)) for name in names]  # type: ignore[attr-defined]
    frame = frame.with_columns(lists).filter(pl.col(settings.list).list.len() > 0)
    places = [*([_PLACE] if numbered else []), *([settings.index] if settings.index else [])]
    frame = frame.with_columns(pl.int_ranges(pl.col(settings.list).list.len()).alias(p) for p in places)
    frame = frame.explode([*names, *places])
    among = pl.List(types[settings.list].inner)  # type: ignore[attr-defined]
    within = {
        name: pl.col(settings.list).is_in(pl.col(column).cast(among)).fill_null(False).cast(pl.Int8)
        for name, column in settings.members.items()
    }
    frame = frame.with_columns(**within).rename({settings.list: item})
    if numbered:
        frame = frame.with_columns(pl.col(ROW).cast(pl.Int64) * LONGEST + pl.col(_PLACE)).drop(_PLACE)
    return frame


def scan_log(data: DataSettings, base: Path, source: str | list[str] | None = None) -> Table:
    """Open the log of a config.

    Args:
        data: its settings.
        base: the folder that paths are relative to.
        source: other files of such a log; of lists, or with a row a candidate, as served requests have. Lists of
            labels may be absent.

    Raises:
        DataError: the files cannot be read, or lists do not fit one another.
    """
    table = Table.scan("log", data.log_files if source is None else source, base, data.nulls)
    settings = data.log
    if not isinstance(settings, ListLog) or (source is not None and settings.list not in table.types):
        return table
    if source is not None:
        if _has_rows(table, settings):
            named = table.keep(methodcaller("rename", {settings.list: data.item}))
            return replace(named, types=named.frame.collect_schema())
        labels = {label.column for label in data.labels.values()} - table.types.keys()
        settings = settings.model_copy(update={"along": [n for n in settings.along if n not in labels]})
    table.require([settings.list, *settings.along, *settings.members.values()])
    _check_columns(table, settings, data.item)
    return _explode(table, settings, data.item)


def _has_rows(table: Table, settings: ListLog) -> bool:
    """Whether a row is a candidate, and nothing that it needs would have to be a list."""
    return not settings.members and not isinstance(table.types[settings.list], pl.List | pl.Array | pl.Null)


def _check_columns(table: Table, settings: ListLog, item: str) -> None:
    """Raise DataError for a column that holds no lists, and for names that are taken."""
    for column in [settings.list, *settings.along, *settings.members.values()]:
        if not isinstance(table.types[column], pl.List | pl.Array):
            none = ", which files of CSV cannot hold" if table.format == "csv" else ""
            raise table.unfit(column, f"lists, as data.log reads it{none}")
    made = dict.fromkeys(settings.members, "under members")
    made |= {settings.index: "as index"} if settings.index else {}
    if item in made:
        raise DataError(f"data.log: '{item}' is data.item already; take another name {made[item]}")
    for column, key in (made | ({item: "as data.item"} if item != settings.list else {})).items():
        if column in table.types:
            raise DataError(f"data.log: the files have a column '{column}' already; take another name {key}")


def _explode(table: Table, settings: ListLog, item: str) -> Table:
    """Check that the lists of a row are of one length, and explode them. Raises DataError."""

    def length(column: str) -> pl.Expr:
        array = isinstance(table.types[column], pl.Array)
        return (pl.col(column).arr.len() if array else pl.col(column).list.len()).fill_null(0)

    candidates = length(settings.list)
    bad = {name: length(name) != candidates for name in settings.along}
    long = (candidates > LONGEST).any()
    summary = table.collect(
        table.frame.with_row_index(ROW).select(
            candidates.sum().cast(pl.Int64).alias("@sum"),
            long.alias("@long"),
            *(pl.col(ROW).filter(fault).min().alias(name) for name, fault in bad.items()),
        )
    ).row(0, named=True)
    if summary["@long"]:
        raise DataError(f"data.log: column '{settings.list}' has a list of more than {LONGEST:,} candidates")
    for name in settings.along:
        if (row := summary[name]) is not None:
            lengths = table.collect(table.frame.select(length(name), other=candidates).slice(row, 1)).row(0)
            raise DataError(
                f"data.log: row {row + 1}: column '{name}' has {lengths[0]:,} elements, '{settings.list}' "
                f"{lengths[1]:,}; lists of a row go along with one another, one element a candidate"
            )
    explode = partial(_explode_lists, settings, item)
    frame = explode(table.frame)
    rows = max(sum(table.row_counts), 1)
    return replace(
        table,
        frame=frame,
        types=frame.collect_schema(),
        explode=explode,
        per_row=-(-(summary["@sum"] or 0) // rows) or 1,
    )
