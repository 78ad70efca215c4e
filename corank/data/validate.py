"""Checks of the user's tables, row by row. Each raises DataError, which names column, row and remedy.

Rows of a log that cannot be used, since clients wrote their values: dropped and counted, never the file.

A row lacks its user, item, time or a part of its request key, or its time is in the future, which would close periods
that are not over. Any value may be in a log of served requests (`corank serve --log`), so its rows are dropped where
another log is refused. Two of its requests may share their key, since clients write that, too: one of them is kept.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import polars as pl

from corank.core.errors import DataError
from corank.core.time import MILLISECOND, format_time, now_ms
from corank.core.types import Report
from corank.data.tables import Table
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class RowCheck:
    """A rule that every row of a table must keep."""

    bad: pl.Expr
    """Whether a row breaks it."""
    shown: tuple[str, ...]
    """The columns that the message is made of."""
    describe: Callable[[dict[str, Any]], str]
    """Makes the message from these columns of the first row that breaks it."""


def find_faults(table: Table, checks: Iterable[RowCheck]) -> dict[int, str]:
    """Find the rules that rows break, by their number among the checks, with the error messages.

    Of each rule the first row that breaks it is named. All are checked in one pass.
    """
    rules = list(checks)
    bad = {f"{n}": rule.bad.fill_null(False).any() for n, rule in enumerate(rules)}
    flags = table.collect(table.frame.select(**bad)).row(0) if rules else ()
    faults = {}
    for n, broken in enumerate(flags):
        if broken:
            rule = rules[n]
            first = table.collect(table.frame.filter(rule.bad).select(rule.shown).head(1))
            faults[n] = rule.describe(first.row(0, named=True))
    return faults


def check_rows(table: Table, checks: Iterable[RowCheck]) -> None:
    """Raise DataError for the first rule that a row breaks."""
    for message in find_faults(table, checks).values():
        raise DataError(message)


def naming_rows(checks: Iterable[RowCheck], keys: Iterable[str]) -> Iterator[RowCheck]:
    """Let the message of each check end with the keys of the row that breaks it."""
    names = tuple(dict.fromkeys(keys))
    for check in checks:
        yield replace(
            check,
            shown=tuple(dict.fromkeys((*names, *check.shown))),
            describe=lambda row, say=check.describe: f"{say(row)} (at {_where(row, names)})",  # type: ignore[misc]
        )


def whole_checks(table: Table, columns: Iterable[str]) -> Iterator[RowCheck]:
    """A column of ids has no fractions and no NaN."""
    for column in dict.fromkeys(columns):
        if table.types[column].is_float():
            value = pl.col(column)
            yield RowCheck(
                (value.is_not_null() & (value != value.round())) | value.is_nan(),
                (column,),
                lambda row, c=column: (  # type: ignore[misc]
                    f"data.{table.name}: column '{c}' identifies, but holds {row[c]}; "
                    "write whole numbers or text"
                ),
            )


def label_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A label is 0, 1 or null, and a level is among the data's levels."""
    for name, label in data.labels.items():
        column = label.column
        if not (log.types[column].is_numeric() or log.types[column] in (pl.Boolean, pl.Null)):
            raise log.unfit(column, f"0, 1 or null, as data.labels.{name} reads it{log.example(column)}")
        yield RowCheck(
            ~pl.col(column).cast(pl.Float64).is_in([0.0, 1.0]),
            (column,),
            lambda row, n=name, c=column: (  # type: ignore[misc]
                f"data.labels.{n}: column '{c}' holds {float(row[c]):g}; expected 0, 1, or null if unknown"
            ),
        )
    if level := data.level:
        yield RowCheck(
            ~pl.col(level).cast(pl.String).is_in(data.levels).fill_null(False),
            (level,),
            lambda row: (
                f"data.level: column '{level}' holds {row[level]!r}; data.levels are {', '.join(data.levels)}"
            ),
        )


def number_checks(table: Table, columns: Iterable[str], key: list[str]) -> Iterator[RowCheck]:
    """A feature's column holds no NaN and no infinity; the message names the row by its key."""
    for column in columns:
        if table.types[column].is_float():
            yield RowCheck(
                ~pl.col(column).is_finite(),
                tuple(dict.fromkeys([*key, column])),
                lambda row, c=column: (  # type: ignore[misc]
                    f"data.{table.name}: column '{c}' is {row[c]} at {_where(row, key)}; "
                    "write null for a missing value"
                ),
            )


def weight_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A weight is a positive number."""
    if column := data.weight:
        if not log.types[column].is_numeric():
            raise log.unfit(column, "positive numbers, as data.weight reads it")
        weight = pl.col(column).cast(pl.Float64)
        yield RowCheck(
            ~(weight.is_finite() & (weight > 0)).fill_null(False),
            (column,),
            lambda row: f"data.weight: column '{column}' holds {row[column]}; expected positive numbers",
        )


def score_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A logged score is a finite number, or a probability, or null."""
    for name, score in data.scores.items():
        if not log.types[score.column].is_numeric():
            raise log.unfit(score.column, f"numbers, as data.scores.{name} reads it")
        value = pl.col(score.column).cast(pl.Float32)
        sound, expected = value.is_finite(), "finite numbers"
        if score.scale == "probability":
            sound, expected = sound & value.is_between(0, 1), "probabilities, 0 to 1"
        yield RowCheck(
            ~sound,
            (score.column,),
            lambda row, n=name, c=score.column, of=expected: (  # type: ignore[misc]
                f"data.scores.{n}: column '{c}' holds {row[c]}; expected {of}, or null where there is none"
            ),
        )


def position_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A position is a whole number from 0, or null."""
    if column := data.position:
        if not log.types[column].is_numeric():
            raise log.unfit(column, "whole numbers from 0, as data.position reads it")
        position = pl.col(column)
        yield RowCheck(
            (position < 0) | (position.cast(pl.Float64) % 1 != 0),
            (column,),
            lambda row: (
                f"data.position: column '{column}' holds {row[column]}; expected whole numbers from 0, "
                "or null where nothing was shown"
            ),
        )


def propensity_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A propensity is a probability above 0, or null."""
    if column := data.propensity:
        if not log.types[column].is_numeric():
            raise log.unfit(column, "probabilities above 0, as data.propensity reads it")
        chance = pl.col(column).cast(pl.Float32)
        yield RowCheck(
            ~(chance.is_finite() & (chance > 0) & (chance <= 1)),
            (column,),
            lambda row: (
                f"data.propensity: column '{column}' holds {row[column]}; expected probabilities above 0 and up to 1, "
                "or null outside of the random bucket"
            ),
        )


def split_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """Check the column of splits: values that a split names, or null."""
    column, values = data.split.source, data.split.values
    if column is None or values is None:
        return
    if not (log.types[column].is_integer() or log.types[column] in (pl.String, pl.Boolean, pl.Null)
            or isinstance(log.types[column], pl.Categorical | pl.Enum)):  # fmt: skip
        raise log.unfit(column, "texts or whole numbers, as data.split reads it")
    yield RowCheck(
        ~pl.col(column).cast(pl.String).is_in(list(values)),
        (column,),
        lambda row: (
            f"data.split: column '{column}' holds {row[column]!r}; expected {', '.join(values)}, "
            "or null for a row that is in no split"
        ),
    )


def value_checks(table: Table, columns: list[str], keys: list[str]) -> Iterator[RowCheck]:
    """Each of the columns has a finite number in every row; the message names the row by its keys."""
    table.require([*columns, *keys])
    for column in columns:
        if not table.types[column].is_numeric():
            raise table.unfit(column, "numbers, as data.columns reads it")
        yield RowCheck(
            ~pl.col(column).cast(pl.Float32).is_finite().fill_null(False),
            tuple(dict.fromkeys([*keys, column])),
            lambda row, c=column: (  # type: ignore[misc]
                f"data.{table.name}: column '{c}' is {row[c]} at {_where(row, keys)}; a value needs a number for "
                "every candidate: write one, such as 0"
            ),
        )


def _where(row: dict[str, Any], key: Iterable[str]) -> str:
    """Name a row by its key."""
    return ", ".join(f"{name}={row[name]!r}" for name in key)


SERVED_ID = "served_id"
"""A log with this column is one of served requests."""
AHEAD = timedelta(minutes=5)
"""How far clocks may be ahead of this machine's."""
MOST = 0.1
"""A larger share of the rows is no accident: the log is refused."""
NO_KEY = "a part of data.request is null"
_FIRST, _COUNT = "@first", "@count"
"""The served request that is kept of a request key; how many have it."""


def drop_unusable_rows(
    log: Table, data: DataSettings, report: Report, until: int | None = None, items: pl.Series | None = None
) -> Table:
    """Drop the rows that cannot be used, and report how many and why.

    Args:
        log: the table, whose columns of keys and time exist.
        data: its settings.
        report: receives a line for each reason.
        until: the time until which the log is complete, ms UTC, if that is known; it may be in the future.
        items: the ids of all items, if rows of other items cannot be used.

    Raises DataError if more than a tenth of the rows cannot be used. In a log of served requests any number may lack
    their user or a part of their key, share their key with another request, or be of items that are not in `items`.
    """
    served = SERVED_ID in log.types
    latest = max(now_ms(), until or 0) + AHEAD // MILLISECOND
    time, kept = log.moment(data.time), pl.lit(True)
    keys = [key for key in dict.fromkeys([*data.request, data.item]) if key != data.user]
    reasons = {"no user": pl.col(data.user).is_null()}
    if served:
        parts = [pl.col(key).is_null() for key in keys if key not in (data.item, data.time)]
        reasons[NO_KEY] = pl.any_horizontal(pl.lit(False), *parts)
    reasons |= {
        "a user, an item or a time is null; every candidate needs one": time.is_null()
        | pl.any_horizontal(pl.col(key).is_null() for key in keys),
        f"the time is after {format_time(latest)}": (time > latest).fill_null(False),
    }
    if items is not None:
        reasons["the item has no row in data.items"] = ~log.key(data.item).is_in(items.implode())
    counted = {}
    for reason, bad in reasons.items():
        counted[reason] = (kept & bad.fill_null(False)).sum()
        kept = kept & ~bad.fill_null(False)
    totals = log.collect(log.frame.select(pl.len().alias("rows"), *(n.alias(r) for r, n in counted.items())))
    rows, *counts = totals.row(0)
    free = {"no user", NO_KEY, "the item has no row in data.items"} if served else set()
    for reason, count in zip(counted, counts, strict=True):
        if reason not in free and count > MOST * rows:
            said = (
                "a user, an item or a time is null; every candidate needs one"
                if reason == "no user"
                else reason
            )
            raise DataError(f"data.log: {said} ({count:,} of {rows:,} rows; at most a tenth may be dropped)")
        if count:
            report(f"log: {count:,} of {rows:,} rows dropped: {reason}")
    log = log.keep(_KeepRows(kept)) if sum(counts) else log
    return _tell_apart(log, data, report) if served else log


def _tell_apart(log: Table, data: DataSettings, report: Report) -> Table:
    """Drop all but the first of the served requests that share a request key, and report how many rows that are."""
    keys = [*dict.fromkeys(data.request)]
    if SERVED_ID in keys:
        return log
    first = pl.col(SERVED_ID).sort_by(data.time, SERVED_ID, nulls_last=True).first()
    of_key = log.frame.group_by(keys).agg(first.alias(_FIRST), pl.col(SERVED_ID).n_unique().alias(_COUNT))
    shared = log.collect(of_key.filter(pl.col(_COUNT) > 1).drop(_COUNT))
    if not len(shared):
        return log
    step = _KeepFirst(keys, shared)
    before, after = (log.collect(f.select(pl.len())).item() for f in (log.frame, step(log.frame)))
    report(
        f"log: {before - after:,} rows dropped: another request has the same {', '.join(keys)} "
        f"({len(shared):,} keys; the first request of each is kept)"
    )
    return log.keep(step)


@dataclass(frozen=True)
class _KeepRows:
    """Keeps the rows for which an expression is true."""

    kept: pl.Expr

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(self.kept)


@dataclass(frozen=True)
class _KeepFirst:
    """Keeps, of the requests that share a key, the first."""

    keys: list[str]
    shared: pl.DataFrame
    """The keys that several requests have, and the first request of each."""

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        joined = frame.join(self.shared.lazy(), on=self.keys, how="left", maintain_order="left")
        other = pl.col(_FIRST).is_not_null() & pl.col(SERVED_ID).ne_missing(pl.col(_FIRST))
        return joined.filter(~other).drop(_FIRST)
