"""Checks of the user's tables, row by row, and the rows of a log that cannot be used.

A check raises DataError, which names column, row and remedy. Rows that cannot be used, since clients wrote their
values, are dropped and counted, never the file: a row lacks its user, item, time or a part of its request key, or its
time is in the future, which would close periods that are not over. In a log of served requests (`corank serve --log`)
any value may stand, so its rows are dropped where another log is refused; and two of its requests may share their key,
since clients write that, too: one of them is kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.core.time import MILLISECOND, format_time, now_ms
from corank.data.tables import Table
from corank.features.log_schema import DataSettings


@dataclass(frozen=True)
class RowCheck:
    """A rule that every row of a table must keep."""

    bad: pl.Expr
    """Whether a row breaks it."""
    column: str
    message: str
    """On the first row that breaks it, with {value} for the column's and {row} for the keys'."""
    keys: tuple[str, ...] = ()
    """The columns that name a row."""

    def describe(self, row: dict[str, Any]) -> str:
        """Make the message of a row."""
        value = row[self.column]
        keys = ", ".join(f"{name}={row[name]!r}" for name in self.keys)
        shown = repr(value) if isinstance(value, str) else str(value)
        return self.message.replace("{row}", keys).replace("{value}", shown)


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
            shown = dict.fromkeys([*rules[n].keys, rules[n].column])
            first = table.collect(table.frame.filter(rules[n].bad).select(*shown).head(1))
            faults[n] = rules[n].describe(first.row(0, named=True))
    return faults


def check_rows(table: Table, checks: Iterable[RowCheck]) -> None:
    """Raise DataError for the first rule that a row breaks."""
    for message in find_faults(table, checks).values():
        raise DataError(message)


def naming_rows(checks: Iterable[RowCheck], keys: Iterable[str]) -> Iterator[RowCheck]:
    """Let the message of each check end with the keys of the row that breaks it."""
    names = tuple(dict.fromkeys(keys))
    for check in checks:
        yield replace(check, message=f"{check.message} (at {{row}})", keys=names)


def whole_checks(table: Table, columns: Iterable[str]) -> Iterator[RowCheck]:
    """A column of ids has no fractions and no NaN."""
    for column in dict.fromkeys(columns):
        if table.types[column].is_float():
            value = pl.col(column)
            yield RowCheck(
                (value.is_not_null() & (value != value.round())) | value.is_nan(),
                column,
                f"data.{table.name}: column '{column}' identifies, but holds {{value}}; write whole numbers or text",
            )


def null_checks(columns: Iterable[str]) -> Iterator[RowCheck]:
    """A column of the log that identifies a candidate has a value in every row."""
    for column in columns:
        message = f"data.log: column '{column}' is null; every candidate needs one"
        yield RowCheck(pl.col(column).is_null(), column, message)


def number_checks(table: Table, columns: Iterable[str], keys: list[str]) -> Iterator[RowCheck]:
    """A feature's column holds no NaN and no infinity."""
    for column in columns:
        if table.types[column].is_float():
            message = f"data.{table.name}: column '{column}' is {{value}} at {{row}}; write null for a missing value"
            yield RowCheck(~pl.col(column).is_finite(), column, message, tuple(keys))


def value_checks(table: Table, columns: list[str], keys: list[str]) -> Iterator[RowCheck]:
    """Each of the columns has a finite number in every row."""
    table.require([*columns, *keys])
    for column in columns:
        if not table.types[column].is_numeric():
            raise table.unfit(column, "numbers, as data.columns reads it")
        message = (
            f"data.{table.name}: column '{column}' is {{value}} at {{row}}; a value needs a number for every "
            "candidate: write one, such as 0"
        )
        finite = pl.col(column).cast(pl.Float32).is_finite()
        yield RowCheck(~finite.fill_null(False), column, message, tuple(keys))


def label_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A label is 0, 1 or null, and a level is among the data's levels."""
    for name, label in data.labels.items():
        setting, column = f"data.labels.{name}", label.column
        if not (log.types[column].is_numeric() or log.types[column] in (pl.Boolean, pl.Null)):
            raise log.unfit(column, f"0, 1 or null, as {setting} reads it{log.example(column)}")
        value = pl.col(column).cast(pl.Float64)
        yield _check(~value.is_in([0.0, 1.0]), setting, column, "expected 0, 1, or null if unknown")
    if level := data.level:
        known = pl.col(level).cast(pl.String).is_in(data.levels)
        expected = f"data.levels are {', '.join(data.levels)}"
        yield _check(~known.fill_null(False), "data.level", level, expected)


def weight_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A weight is a positive number."""
    if column := data.weight:
        _require_numbers(log, "data.weight", column, "positive numbers")
        weight = pl.col(column).cast(pl.Float64)
        bad = ~(weight.is_finite() & (weight > 0)).fill_null(False)
        yield _check(bad, "data.weight", column, "expected positive numbers")


def score_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A logged score is a finite number, or a probability, or null."""
    for name, score in data.scores.items():
        setting = f"data.scores.{name}"
        _require_numbers(log, setting, score.column, "numbers")
        value = pl.col(score.column).cast(pl.Float32)
        sound, expected = value.is_finite(), "finite numbers"
        if score.scale == "probability":
            sound, expected = sound & value.is_between(0, 1), "probabilities, 0 to 1"
        yield _check(~sound, setting, score.column, f"expected {expected}, or null where there is none")


def position_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A position is a whole number from 0, or null."""
    if column := data.position:
        _require_numbers(log, "data.position", column, "whole numbers from 0")
        bad = (pl.col(column) < 0) | (pl.col(column).cast(pl.Float64) % 1 != 0)
        expected = "expected whole numbers from 0, or null where nothing was shown"
        yield _check(bad, "data.position", column, expected)


def propensity_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """A propensity is a probability above 0, or null."""
    if column := data.propensity:
        _require_numbers(log, "data.propensity", column, "probabilities above 0")
        chance = pl.col(column).cast(pl.Float32)
        bad = ~(chance.is_finite() & (chance > 0) & (chance <= 1))
        expected = "expected probabilities above 0 and up to 1, or null outside of the random bucket"
        yield _check(bad, "data.propensity", column, expected)


def split_checks(log: Table, data: DataSettings) -> Iterator[RowCheck]:
    """Check the column of splits: values that a split names, or null."""
    column, values = data.split.source, data.split.values
    if column is None or values is None:
        return
    kind = log.types[column]
    texts = kind in (pl.String, pl.Boolean, pl.Null) or isinstance(kind, pl.Categorical | pl.Enum)
    if not (kind.is_integer() or texts):
        raise log.unfit(column, "texts or whole numbers, as data.split reads it")
    bad = ~pl.col(column).cast(pl.String).is_in(list(values))
    yield _check(
        bad, "data.split", column, f"expected {', '.join(values)}, or null for a row that is in no split"
    )


def _check(bad: pl.Expr, setting: str, column: str, expected: str) -> RowCheck:
    return RowCheck(bad, column, f"{setting}: column '{column}' holds {{value}}; {expected}")


def _require_numbers(log: Table, setting: str, column: str, expected: str) -> None:
    if not log.types[column].is_numeric():
        raise log.unfit(column, f"{expected}, as {setting} reads it")


SERVED_ID = "served_id"
"""A log with this column is one of served requests."""
AHEAD = timedelta(minutes=5)
"""How far clocks may be ahead of this machine's."""
MOST = 0.1
"""A larger share of the rows is no accident: the log is refused."""
NO_USER, NO_KEY = "no user", "a part of data.request is null"
NO_ITEM = "the item has no row in data.items"
INCOMPLETE = "a user, an item or a time is null; every candidate needs one"
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
    reasons = {NO_USER: pl.col(data.user).is_null()}
    if served:
        parts = [pl.col(key).is_null() for key in keys if key not in (data.item, data.time)]
        reasons[NO_KEY] = pl.any_horizontal(pl.lit(False), *parts)
    reasons |= {
        INCOMPLETE: time.is_null() | pl.any_horizontal(pl.col(key).is_null() for key in keys),
        f"the time is after {format_time(latest)}": time > latest,
    }
    if items is not None:
        reasons[NO_ITEM] = ~log.key(data.item).is_in(items.implode())
    counted = {}
    for reason, bad in reasons.items():
        counted[reason] = (kept & bad.fill_null(False)).sum()
        kept = kept & ~bad.fill_null(False)
    totals = log.collect(log.frame.select(pl.len().alias("rows"), *(n.alias(r) for r, n in counted.items())))
    rows, *counts = totals.row(0)
    free = {NO_USER, NO_KEY, NO_ITEM} if served else set()
    for reason, count in zip(counted, counts, strict=True):
        if reason not in free and count > MOST * rows:
            said = INCOMPLETE if reason == NO_USER else reason
            raise DataError(f"data.log: {said} ({count:,} of {rows:,} rows; at most a tenth may be dropped)")
        if count:
            report(f"log: {count:,} of {rows:,} rows dropped: {reason}")
    log = log.filter(kept) if sum(counts) else log
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
    step = partial(_keep_first, keys, shared)
    before, after = (log.collect(f.select(pl.len())).item() for f in (log.frame, step(log.frame)))
    report(
        f"log: {before - after:,} rows dropped: another request has the same {', '.join(keys)} "
        f"({len(shared):,} keys; the first request of each is kept)"
    )
    return log.keep(step)


def _keep_first(keys: list[str], shared: pl.DataFrame, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Keep, of the requests that share a key, the first; `shared` has the keys, and the first request of each."""
    joined = frame.join(shared.lazy(), on=keys, how="left", maintain_order="left")
    other = pl.col(_FIRST).is_not_null() & pl.col(SERVED_ID).ne_missing(pl.col(_FIRST))
    return joined.filter(~other).drop(_FIRST)
