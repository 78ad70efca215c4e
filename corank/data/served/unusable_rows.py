"""Rows of a log that cannot be used, since clients wrote their values: dropped and counted, never the file.

A row lacks its user, item, time or a part of its request key, or its time is in the future, which would close periods
that are not over. Any value may be in a log of served requests (`corank serve --log`), so its rows are dropped where
another log is refused. Two of its requests may share their key, since clients write that, too: one of them is kept.
"""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from corank.core.errors import DataError
from corank.core.time import MILLISECOND, format_time, now_ms
from corank.core.types import Report
from corank.data.tables import Table
from corank.features.log_schema import DataSettings

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
