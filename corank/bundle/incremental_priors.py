"""A newer log than that of a bundle: the candidates that the bundle's priors have not counted yet.

Letters: C candidates.

Newer tables of events than those of a bundle: the events that the bundle's priors have not counted yet.

Letters: E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest, ItemsAsOf
from corank.core.errors import DataError
from corank.core.time import MILLISECOND, now_ms
from corank.core.types import Report
from corank.data.column_sources import Source
from corank.data.event_tables import EventColumns, open_given_events
from corank.data.log_rows import log_columns, request_columns, scan_log
from corank.data.packing.event_counts import (
    counted_tables,
    event_operands,
    event_priors,
    select_item_operands,
)
from corank.data.point_in_time import VersionedRows
from corank.data.tables import Table
from corank.data.validate import check_rows, drop_unusable_rows, label_checks, weight_checks, whole_checks
from corank.features.encoders import Encoders
from corank.features.log_schema import ITEM, ROW, TIME, USER, DataSettings, Labels, read_labels, user_column
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import CountedFeature
from corank.features.schema import Schema


@dataclass(frozen=True)
class RefreshSources:
    """The tables that a bundle is refreshed from."""

    log: str | list[str]
    items: str | list[str] | None = None
    users: str | list[str] | None = None
    base: Path = Path()
    """The folder that relative paths begin at."""
    until: int | None = None
    """The time until which the log is complete, ms UTC; that of its last row if not given."""
    events: Mapping[str, str] = field(default_factory=dict)
    """By name of `data.events`, newer tables of the events that priors count."""
    items_as_of: ItemsAsOf | None = None
    """What the table of items contains; the bundle's own as-of holds if it is not given."""


@dataclass(frozen=True)
class IncrementalLog:
    """Exposed candidates that a prior has not counted, without duplicates, in the order of the log."""

    data: DataSettings
    """The settings of what was read: no scores, and only the labels that priors count."""
    rows: pl.DataFrame
    """As in `log_columns`, numbered by the column ROW: (C,)."""
    labels: Labels
    operands: OperandRows
    """The operands of users, contexts and items: (C,)."""
    first: int
    """The time of the log's first row, ms UTC."""
    until: int
    """The time until which the log is complete, ms UTC."""
    table: ClassVar[str] = "log"
    counted: ClassVar[str] = "candidates"

    def count(self, feature: CountedFeature) -> pl.DataFrame:
        """List what a prior counts of it, as `CountedFeature.count` does."""
        return feature.count(self.rows, self.data, self.labels, self.operands)


def logged_priors(schema: Schema) -> dict[str, CountedFeature]:
    """The priors that count candidates of the log."""
    return {name: prior for name, prior in schema.priors().items() if prior.events is None}


def read_incremental_log(
    newer: RefreshSources,
    manifest: BundleManifest,
    encoders: Encoders,
    records: ItemRecords,
    since: int,
    report: Report,
) -> IncrementalLog:
    """Read and check a newer log.

    Args:
        newer: the tables.
        manifest: of the bundle.
        encoders: of the bundle.
        records: its items.
        since: the time of its oldest snapshot, ms UTC.
        report: receives a line for people.

    Raises:
        DataError: the log, or the table of users, cannot be read.
    """
    data, log = _narrow(manifest), scan_log(manifest.data, newer.base, newer.log)
    keys = [*data.request, data.user, data.item]
    log.require([*keys, data.time, *(c for c in (data.level, data.weight) if c)])
    log.require(label.column for label in data.labels.values())
    check_rows(log, whole_checks(log, keys))
    log = drop_unusable_rows(log, data, report, newer.until)
    first, last = _time_span(log, data)
    check_rows(log, [*label_checks(log, data), *weight_checks(log, data)])
    rows = _read_exposed(log, data, manifest, since)
    _check_item(log, data, rows, records)
    operands = _operand_rows(rows, data, manifest, encoders, records, newer, report)
    until = _until(newer, last)
    return IncrementalLog(data, rows, read_labels(rows, data), operands, first, until)


def read_until(newer: RefreshSources, data: DataSettings) -> int:
    """Find the time until which a newer log is complete, ms UTC. Raises DataError if it cannot be read."""
    log = Table.scan("log", newer.log, newer.base)
    return _until(newer, _time_span(log, data)[1])


def _until(newer: RefreshSources, last: int) -> int:
    # the log cannot be complete beyond now, whatever the clocks of its writers said
    return min(last, now_ms()) if newer.until is None else newer.until


def _narrow(manifest: BundleManifest) -> DataSettings:
    """Return the settings of the log without what priors do not read."""
    all_labels, names = manifest.data.labels, set()
    for prior in logged_priors(manifest.declared).values():
        label = prior.label
        while label is not None:
            names.add(label)
            label = all_labels[label].given
    labels = {name: label for name, label in all_labels.items() if name in names}
    unused: dict[str, Any] = {"position": None, "propensity": None}
    return manifest.data.model_copy(update={"labels": labels, "scores": {}, "columns": []} | unused)


def _time_span(log: Table, data: DataSettings) -> tuple[int, int]:
    """Find the first and the last time of the log, ms UTC. Raises DataError if it is empty."""
    time = log.moment(data.time)
    span = log.collect(log.frame.select(time.min().alias("first"), time.max().alias("last")))
    first, last = span.row(0)
    if first is None:
        raise DataError("data.log: the log is empty")
    return int(first), int(last)


def _prior_operands(schema: Schema) -> OperandNames:
    """Name the operands of requests that priors count by."""
    derived = schema.derived()
    return OperandNames.of(schema, "query", [derived[name] for name in logged_priors(schema)])


def _sources(log: Table, manifest: BundleManifest) -> dict[str, Source]:
    """Find the features of the log that priors count by."""
    schema, sources = manifest.declared, {}
    for name in _prior_operands(schema).names:
        if manifest.sources[name] == "log" or schema.column(name) == manifest.user:
            log.require([schema.column(name)])
            sources[name] = "log"
    return sources  # type: ignore[return-value]


def _read_exposed(log: Table, data: DataSettings, manifest: BundleManifest, since: int) -> pl.DataFrame:
    """Read the exposed candidates that some prior has not counted. Raises DataError for one with two rows."""
    late = max(prior.known_after(data) for prior in logged_priors(manifest.declared).values())
    begin = since - late // MILLISECOND
    exposed = pl.lit(True) if data.level is None else pl.col(data.level).cast(pl.String) == data.levels[-1]
    read = log_columns(log, data, manifest.declared, _sources(log, manifest))
    rows = log.collect(log.frame.filter(exposed, log.moment(data.time) >= begin).select(read))
    rows = rows.unique(maintain_order=True)
    once = [*request_columns(data).values(), ITEM]
    twice = rows.filter(rows.select(once).is_duplicated())
    if len(twice):
        where = {column: twice[name][0] for column, name in request_columns(data).items()}
        key = ", ".join(f"{column}={value!r}" for column, value in where.items())
        raise DataError(
            f"data.log: request {key}: {data.item}={twice[ITEM][0]!r} has two rows that differ; keep one"
        )
    return rows.with_row_index(ROW)


def _check_item(log: Table, data: DataSettings, rows: pl.DataFrame, records: ItemRecords) -> None:
    """Raise DataError if the log's item ids are of another type than the bundle's."""
    if rows[ITEM].dtype != records.ids.values.dtype:
        raise log.unfit(data.item, f"{records.ids.values.dtype}, as in the bundle")


def _operand_rows(
    rows: pl.DataFrame,
    data: DataSettings,
    manifest: BundleManifest,
    encoders: Encoders,
    records: ItemRecords,
    newer: RefreshSources,
    report: Report,
) -> OperandRows:
    """Make the operands that priors count by: (C)."""
    schema = manifest.declared
    wanted = _prior_operands(schema)
    frame = rows.hstack(read_user_features(rows, data, manifest, wanted, newer))

    def column(name: str) -> pl.Series:
        values = frame[user_column(name) if user_column(name) in frame.columns else schema.column(name)]
        # for its errors: values of another type would be counted, but never matched
        encoders.encode(name, values)
        return values

    query = Operands.of(encoders, wanted, column, len(rows))
    record = records.ids.find(rows[ITEM])
    unknown = np.flatnonzero(record < 0)
    if len(unknown):
        count = rows[ITEM].gather(unknown).n_unique()
        report(
            f"log: {count:,} items have no record; they are counted by their id alone (pass the table of items, too)"
        )
    wanted = OperandNames.of(schema, "item")
    item = select_item_operands(records.operands, encoders, wanted, manifest.item, record, rows[ITEM])
    return OperandRows.pairs(schema, query, item, np.arange(len(rows)), None)


def read_user_features(
    rows: pl.DataFrame,
    data: DataSettings,
    manifest: BundleManifest,
    wanted: OperandNames,
    newer: RefreshSources,
) -> pl.DataFrame:
    """Read the users' features that priors count by, at each row's time, in the columns of `user_column`: (C)."""
    schema = manifest.declared
    names = {
        name: schema.column(name)
        for name in wanted.names
        if manifest.sources[name] == "users" and schema.column(name) != manifest.user
    }
    if not names:
        return pl.DataFrame()
    if newer.users is None:
        raise DataError(
            f"features.{next(iter(names))}: a prior counts by it, and it is read from the users; pass that table, too"
        )
    table = Table.scan("users", newer.users, newer.base)
    users, _ = VersionedRows.read(
        table, data.user, list(dict.fromkeys(names.values())), rows[USER].unique(), only=True
    )
    user_rows = users.frame[users.find(rows[USER], rows[TIME].to_numpy())]
    return user_rows.select(pl.col(column).alias(user_column(name)) for name, column in names.items())


@dataclass(frozen=True)
class IncrementalEvents:
    """Events that a prior has not counted, in the order of their table."""

    data: DataSettings
    rows: pl.DataFrame
    """USER, ITEM, TIME and ROW: (E,)."""
    operands: OperandRows
    """Of users and items: (E,)."""
    first: int
    """The time of the table's first row, ms UTC."""
    until: int
    """The time until which the table is complete, ms UTC."""
    table: ClassVar[str] = "table of events"
    counted: ClassVar[str] = "events"

    def count(self, feature: CountedFeature) -> pl.DataFrame:
        """List what a prior counts of it, as `CountedFeature.count` does."""
        return feature.count_events(self.rows, self.data, self.operands)


def open_newer_events(newer: RefreshSources, manifest: BundleManifest) -> dict[str, Table]:
    """Open the tables whose events priors count. Raises DataError if one is missing or not needed."""
    wanted = counted_tables(manifest.declared)
    return open_given_events(manifest.data, newer.events, wanted, "priors", newer.base)


@dataclass(frozen=True)
class EventReader:
    """Reads what priors have not counted of newer tables of events."""

    newer: RefreshSources
    manifest: BundleManifest
    encoders: Encoders
    records: ItemRecords
    until: int
    """The time until which the tables are complete, ms UTC: that of the log."""
    report: Report

    def read_all(self, tables: Mapping[str, Table]) -> dict[str, IncrementalEvents]:
        """Read and check tables, by name. Raises DataError."""
        return {name: self._read(name, table) for name, table in tables.items()}

    def _read(self, name: str, table: Table) -> IncrementalEvents:
        data, priors = self.manifest.data, event_priors(self.manifest.declared, name)
        columns = EventColumns.of(data.events[name], data)
        log = scan_log(data, self.newer.base, self.newer.log)
        users = log.collect(log.frame.select(log.key(data.user)).head(0)).to_series()
        columns.check(table, users.dtype, self.records.ids.values.dtype)
        time = table.moment(columns.time)
        first = table.collect(table.frame.select(time.min())).item()
        if first is None:
            raise DataError(f"data.{table.name}: the table is empty")
        late = max(prior.known_after(data) for prior in priors.values()) // MILLISECOND
        begin = min(self.manifest.priors[prior] for prior in priors) - late
        chosen = table.frame.select(columns.select(table)).filter(pl.col(TIME) >= begin)
        rows = table.collect(chosen).with_row_index(ROW)
        return IncrementalEvents(data, rows, self._operands(name, rows), int(first), self.until)

    def _operands(self, name: str, rows: pl.DataFrame) -> OperandRows:
        schema, manifest = self.manifest.declared, self.manifest
        wanted = event_operands(schema, name, "query")
        user_features = read_user_features(rows, manifest.data, manifest, wanted, self.newer)

        def column(feature: str) -> pl.Series:
            values = (
                user_features[user_column(feature)]
                if user_column(feature) in user_features.columns
                else rows[USER]
            )
            # for its errors: values of another type would be counted, but never matched
            self.encoders.encode(feature, values)
            return values

        query = Operands.of(self.encoders, wanted, column, len(rows))
        record = self.records.ids.find(rows[ITEM])
        unknown = rows[ITEM].gather(np.flatnonzero(record < 0)).n_unique()
        if unknown:
            self.report(
                f"events.{name}: {unknown:,} items have no record; they are counted by their id alone "
                "(pass the table of items, too)"
            )
        item = select_item_operands(
            self.records.operands,
            self.encoders,
            event_operands(schema, name, "item"),
            manifest.item,
            record,
            rows[ITEM],
        )
        return OperandRows.pairs(schema, query, item, np.arange(len(rows)), None)
