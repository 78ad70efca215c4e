"""The inputs of packing: the tables of a config, checked, and the ids and rows of items and users that it needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl

from corank.core.errors import DataError
from corank.core.reports import Report
from corank.data.column_sources import check_times, feature_columns, find_sources, find_value_sources
from corank.data.event_tables import EventColumns, open_events
from corank.data.log_rows import log_columns, scan_log, truth_columns
from corank.data.log_summary import LogSummary
from corank.data.packing.earlier_pack import FROM_BEGIN, PackStart
from corank.data.packing.fit_encoders import MeasuredColumn, measure_columns
from corank.data.packing.state import join_ids, keep_from, read_ids
from corank.data.point_in_time import VersionedRows
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.data.validate import SERVED_ID, drop_unusable_rows
from corank.data.vector_files import with_vector_files
from corank.data.versioned_tables import read_versions
from corank.engine.base import Engine
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema
from corank.features.training_values import Measurement, SeenValues


def keep_usable(
    log: Table, items: Table | None, data: DataSettings, report: Report = lambda line: None
) -> Table:
    """Drop the rows of a log of served requests that cannot be used, as `drop_unusable_rows`; any other as it is."""
    if SERVED_ID not in log.types:
        return log
    log.require([*data.request, data.user, data.item, data.time])
    return drop_unusable_rows(
        log, data, report, items=items.distinct(data.item) if items is not None else None
    )


def open_tables(data: DataSettings, schema: Schema, base: Path) -> dict[str, Table]:
    """Open the tables of items, users and the truth that there are, by name. Raises DataError."""
    named = {"items": data.items, "users": data.users, "truth": data.truth}
    tables = {name: Table.scan(name, source, base, data.nulls) for name, source in named.items() if source}
    for name, key in (("items", data.item), ("users", data.user)):
        if name in tables:
            tables[name] = with_vector_files(tables[name], key, schema, base)
    return tables


@dataclass(frozen=True)
class PackSources:
    """The tables of a config, checked."""

    data: DataSettings
    """With the splits of the rows that are new."""
    schema: Schema
    log: Table
    items: Table | None
    users: Table | None
    truth: Table | None
    events: dict[str, Table]
    """By name, those of `data.events`."""
    sources: dict[str, Source]
    """The table of each feature of a column."""
    value_sources: dict[str, Source]
    """The table of each of the data's `columns`."""
    summary: LogSummary
    start: PackStart = FROM_BEGIN

    @classmethod
    def open(
        cls,
        data: DataSettings,
        schema: Schema,
        base: Path,
        engine: Engine,
        report: Report = lambda line: None,
        start: PackStart = FROM_BEGIN,
    ) -> Self:
        """Open and check the tables of a config.

        Args:
            data: the settings of the tables.
            schema: the features.
            base: the folder that the tables' paths are relative to.
            engine: runs the tasks that read the log.
            report: receives how many rows of a log of served requests are dropped.
            start: from when on tables are read.

        Raises DataError, ConfigError.
        """
        log = start.keep_log(scan_log(data, base, start.files.get("log")), data)
        data = start.split(data)
        items, users, truth = map(open_tables(data, schema, base).get, ("items", "users", "truth"))
        events = {
            name: start.keep_events(name, table, EventColumns.of(data.events[name], data).time)
            for name, table in open_events(start.list_events(data), base).items()
        }
        log = keep_usable(log, items, data, report)
        sources = find_sources(schema, data, log, items, users, events)
        summary = LogSummary.read(log, data, feature_columns(schema, sources, "log"), engine)
        check_times(schema, sources, {"log": log, "items": items, "users": users}, summary.first)
        value_sources = find_value_sources(data, log, items)
        if truth is not None:
            truth_columns(truth, data)
        return cls(data, schema, log, items, users, truth, events, sources, value_sources, summary, start)

    @property
    def until(self) -> int:
        """When training ends, ms UTC: after the log's last row, if that is before the end of the split."""
        return min(self.data.training_end(), self.summary.last + 1)

    @property
    def as_of(self) -> int:
        """When the labels were read, ms UTC."""
        return self.data.looked_at(self.summary.last)

    @property
    def item_columns(self) -> list[str]:
        """Those of the data's `columns` that are read from `items`."""
        return [name for name, source in self.value_sources.items() if source == "items"]

    def log_columns(self) -> list[pl.Expr]:
        """Select all that packing needs of the log."""
        return log_columns(self.log, self.data, self.schema, self.sources)

    def estimate_bytes(self) -> int:
        """Estimate the bytes that packing takes on disk: a copy of the log's columns, and what is derived from it."""
        some = self.log.collect(self.log.frame.select(self.log_columns()).head(1000))
        return int(some.estimated_size() / len(some) * self.summary.rows * 2)

    def read_ids(self, spill: Path, engine: Engine) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Find the items and users of the log, in one pass, and those of earlier ones seen within their `keep_days`.

        Args:
            spill: a folder for files, which is made.
            engine: runs the tasks.

        Returns:
            Items and users, in memory: columns `value`, distinct, ascending, and `seen`, when last, ms UTC; and the
            items of this log alone, of each of which a table of items must have a row.

        Raises DataError if ids are of another type than in the earlier packing.
        """
        log, columns = self.log, (self.data.item, self.data.user)
        wanted = [
            (
                MeasuredColumn(log, log.key(column), None, log.moment(self.data.time)),
                Measurement(SeenValues()),
            )
            for column in columns
        ]
        items, users = (ids.sort("value") for ids in measure_columns(wanted, spill, engine))
        logged = items["value"]
        if (earlier := self.start.earlier) is not None:
            since = [keep_from(self.schema, column, self.until) for column in columns]
            items = join_ids(items, read_ids(earlier.folder, "items"), since[0], self.data.item)
            users = join_ids(users, read_ids(earlier.folder, "users"), since[1], self.data.user)
        return items, users, logged

    def read_items(self, ids: pl.Series, logged: pl.Series) -> VersionedRows:
        """Read the rows of items: those of the table, or without one a row of each item of this log and earlier ones.

        Raises DataError if an item of this log has none. One of earlier logs alone may have left the table.
        """
        data, table = self.data, self.items
        if table is None:
            return VersionedRows.from_ids(ids)
        columns = [c for c in feature_columns(self.schema, self.sources, "items") if c != data.item]
        columns += [name for name in self.item_columns if name not in columns]
        items, absent = read_versions(table, data.item, columns, logged, only=False)
        if len(absent):
            some = ", ".join(map(repr, absent.head(5).to_list()))
            raise DataError(
                f"data.items: {len(absent)} items of the log have no row, such as {some}; add them"
            )
        return items

    def read_users(self, wanted: pl.Series) -> tuple[VersionedRows, int]:
        """Read the rows of the log's users, `wanted`. Returns them, and how many users have none."""
        data, table = self.data, self.users
        if table is None:
            return VersionedRows.from_ids(wanted), 0
        columns = [c for c in feature_columns(self.schema, self.sources, "users") if c != data.user]
        users, absent = read_versions(table, data.user, columns, wanted, only=True)
        return users, len(absent)
