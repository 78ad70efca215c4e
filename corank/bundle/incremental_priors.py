"""What the priors of a bundle have not counted yet: candidates of a newer log, events of newer tables of events.

Letters: C candidates, or events.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest, ItemsAsOf
from corank.core.errors import DataError
from corank.core.reports import Report
from corank.core.time import MILLISECOND, now_ms
from corank.data.event_tables import EventColumns, open_given_events
from corank.data.log_rows import log_columns, request_columns, scan_log
from corank.data.packing.event_counts import (
    counted_tables,
    event_operands,
    event_priors,
    select_item_operands,
)
from corank.data.request_columns import Source
from corank.data.tables import Table
from corank.data.validate import check_rows, drop_unusable_rows, label_checks, weight_checks, whole_checks
from corank.data.versioned_tables import read_versions
from corank.features.encoders import Encoders
from corank.features.log_schema import ITEM, ROW, TIME, USER, DataSettings, read_labels, user_column
from corank.features.operands import OperandNames, OperandRows
from corank.features.priors import CountedFeature
from corank.features.row_encoder import RowEncoder
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
class UncountedRows:
    """Candidates or events that priors have not counted, in the order of their table."""

    count: Callable[[CountedFeature], pl.DataFrame]
    """Lists what a prior counts of them, as `CountedFeature.count` does."""
    first: int
    """The time of the table's first row, ms UTC."""
    until: int
    """The time until which the table is complete, ms UTC."""
    table: str
    """What people call the table."""
    unit: str
    """What they call its rows."""


def logged_priors(schema: Schema) -> dict[str, CountedFeature]:
    """The priors that count candidates of the log."""
    return {name: prior for name, prior in schema.priors().items() if prior.events is None}


def read_until(newer: RefreshSources, data: DataSettings) -> int:
    """Find the time until which a newer log is complete, ms UTC. Raises DataError if it cannot be read."""
    log = Table.scan("log", newer.log, newer.base, data.nulls)
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
    unused: dict[str, Any] = {"position": None, "propensity": None, "propensity_weight": None}
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
    return schema.operand_names("query", [derived[name] for name in logged_priors(schema)])


def _sources(log: Table, manifest: BundleManifest) -> dict[str, Source]:
    """Find the features of the log that priors count by."""
    schema, sources = manifest.declared, dict[str, Source]()
    for name in _prior_operands(schema).names:
        if manifest.sources[name] == "log" or schema.column(name) == manifest.user:
            log.require([schema.column(name)])
            sources[name] = "log"
    return sources


def _read_exposed(log: Table, data: DataSettings, manifest: BundleManifest) -> pl.DataFrame:
    """Read the exposed candidates that some prior has not counted. Raises DataError for one with two rows."""
    priors = logged_priors(manifest.declared)
    late = max(prior.known_after(data) for prior in priors.values())
    begin = min(manifest.priors[name] for name in priors) - late // MILLISECOND
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


def open_newer_events(newer: RefreshSources, manifest: BundleManifest) -> dict[str, Table]:
    """Open the tables whose events priors count. Raises DataError if one is missing or not needed."""
    wanted = counted_tables(manifest.declared)
    return open_given_events(manifest.data, newer.events, wanted, "priors", newer.base)


@dataclass(frozen=True)
class NewerReader:
    """Reads and checks what the priors of a bundle have not counted of newer tables."""

    newer: RefreshSources
    manifest: BundleManifest
    encoders: Encoders
    """Of the bundle."""
    records: ItemRecords
    """Its items."""
    report: Report
    """Receives a line for people."""

    def read_log(self) -> UncountedRows:
        """Read exposed candidates, without duplicates. Raises DataError if the log or the users cannot be read."""
        newer, manifest, schema = self.newer, self.manifest, self.manifest.declared
        data, log = _narrow(manifest), scan_log(manifest.data, newer.base, newer.log)
        keys = [*data.request, data.user, data.item]
        log.require([*keys, data.time, *(c for c in (data.level, data.weight) if c)])
        log.require(label.column for label in data.labels.values())
        check_rows(log, whole_checks(log, keys))
        log = drop_unusable_rows(log, data, self.report, newer.until)
        first, last = _time_span(log, data)
        check_rows(log, [*label_checks(log, data), *weight_checks(log, data)])
        rows = _read_exposed(log, data, manifest)
        ids = self.records.ids.values.dtype
        if rows[ITEM].dtype != ids:
            raise log.unfit(data.item, f"{ids}, as in the bundle")
        labels, item = read_labels(rows, data), schema.operand_names("item")
        operands = self._operands(
            "log", rows, _prior_operands(schema), item, lambda name: rows[schema.column(name)]
        )
        return UncountedRows(
            lambda feature: feature.count(rows, data, labels, operands),
            first,
            _until(newer, last),
            "log",
            "candidates",
        )

    def read_events(self, name: str, table: Table, until: int) -> UncountedRows:
        """Read events of a table that is complete until a time, ms UTC. Raises DataError if it cannot be read."""
        data, schema = self.manifest.data, self.manifest.declared
        priors, columns = event_priors(schema, name), EventColumns.of(data.events[name], data)
        log = scan_log(data, self.newer.base, self.newer.log)
        users = log.collect(log.frame.select(log.key(data.user)).head(0)).to_series()
        columns.check(table, users.dtype, self.records.ids.values.dtype)
        first = table.collect(table.frame.select(table.moment(columns.time).min())).item()
        if first is None:
            raise DataError(f"data.{table.name}: the table is empty")
        late = max(prior.known_after(data) for prior in priors.values()) // MILLISECOND
        begin = min(self.manifest.priors[prior] for prior in priors) - late
        chosen = table.frame.select(columns.select(table)).filter(pl.col(TIME) >= begin)
        rows = table.collect(chosen).with_row_index(ROW)
        query, item = event_operands(schema, name, "query"), event_operands(schema, name, "item")
        operands = self._operands(f"events.{name}", rows, query, item, lambda feature: rows[USER])
        return UncountedRows(
            lambda feature: feature.count_events(rows, data, operands),
            int(first),
            until,
            "table of events",
            "events",
        )

    def _operands(
        self,
        table: str,
        rows: pl.DataFrame,
        query: OperandNames,
        item: OperandNames,
        own: Callable[[str], pl.Series],
    ) -> OperandRows:
        """Make the operands that priors count by; `own` gives features of the query that are of the rows: (C)."""
        users = self._read_users(rows, query)

        encoder = RowEncoder(self.encoders, "query", query.names)
        columns = {
            column: users[user_column(name)] if user_column(name) in users.columns else own(name)
            for name, column in encoder.columns.items()
        }
        # features are encoded for their errors: values of another type would be counted, but never matched
        _, requests = encoder.encode(columns, len(rows))
        record = self.records.ids.find(rows[ITEM])
        if unknown := rows[ITEM].gather(np.flatnonzero(record < 0)).n_unique():
            self.report(
                f"{table}: {unknown:,} items have no record; they are counted by their id alone "
                "(pass the table of items, too)"
            )
        key = self.manifest.item
        items = select_item_operands(self.records.operands, self.encoders, item, key, record, rows[ITEM])
        return OperandRows.pairs(
            self.manifest.declared.operand_placements, requests, items, np.arange(len(rows)), None
        )

    def _read_users(self, rows: pl.DataFrame, wanted: OperandNames) -> pl.DataFrame:
        """Read the users' features that priors count by, at each row's time, in the columns of `user_column`: (C)."""
        schema, manifest, newer = self.manifest.declared, self.manifest, self.newer
        names = {
            name: schema.column(name)
            for name in wanted.names
            if manifest.sources[name] == "users" and schema.column(name) != manifest.user
        }
        if not names:
            return pl.DataFrame()
        if newer.users is None:
            raise DataError(f"features.{next(iter(names))}: a prior counts by it; pass the users, too")
        table = Table.scan("users", newer.users, newer.base, manifest.data.nulls)
        columns = list(dict.fromkeys(names.values()))
        users, _ = read_versions(table, manifest.user, columns, rows[USER].unique(), only=True)
        user_rows = users.frame[users.find(rows[USER], rows[TIME].to_numpy())]
        return user_rows.select(pl.col(column).alias(user_column(name)) for name, column in names.items())
