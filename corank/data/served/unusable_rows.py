"""Rows of a log that cannot be used, since clients wrote what stands in them: dropped and counted, never the file.

A row lacks its user, item, time or a part of its request key, or its time lies in the future, which would close periods
that are not over. Anything may stand in a log of served requests (`corank serve --log`), so its rows are dropped where
another log is refused.
"""

from dataclasses import replace
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


def drop_unusable_rows(
    log: Table, data: DataSettings, report: Report, until: int | None = None, items: pl.Series | None = None
) -> Table:
    """Drop the rows that cannot be used, and report how many and why.

    Args:
        log: the table, whose columns of keys and time exist.
        data: its settings.
        report: receives a line for each reason.
        until: the time until which the log is complete, ms UTC, if that is known; it may lie in the future.
        items: the ids of all items, if rows of other items cannot be used.

    Raises DataError if more than a tenth of the rows cannot be used, not counting requests without a user in a log of
    served requests, and items that are not in `items`.
    """
    latest = max(now_ms(), until or 0) + AHEAD // MILLISECOND
    time, kept = log.moment(data.time), pl.lit(True)
    keys = [key for key in dict.fromkeys([*data.request, data.item]) if key != data.user]
    reasons = {
        "no user": pl.col(data.user).is_null(),
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
    found = log.collect(log.frame.select(pl.len().alias("rows"), *(n.alias(r) for r, n in counted.items())))
    rows, *counts = found.row(0)
    free = {"no user", "the item has no row in data.items"} if SERVED_ID in log.types else set()
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
    return replace(log, frame=log.frame.filter(kept)) if sum(counts) else log
