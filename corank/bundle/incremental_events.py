"""Newer tables of events than those of a bundle: the events that the bundle's priors have not counted yet.

Letters: E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from corank.bundle.incremental_log import RefreshSources, read_user_features
from corank.bundle.item_records import ItemRecords
from corank.bundle.manifest import BundleManifest
from corank.core.errors import DataError
from corank.core.time import MILLISECOND
from corank.core.types import Report
from corank.data.histories.event_counts import (
    counted_tables,
    event_operands,
    event_priors,
    select_item_operands,
)
from corank.data.histories.event_tables import EventColumns, open_given_events
from corank.data.lists.list_log import scan_log
from corank.data.tables import Table
from corank.features.encoders import Encoders
from corank.features.log_schema import DataSettings
from corank.features.operand_rows import OperandRows
from corank.features.operands import Operands
from corank.features.priors import CountedFeature
from corank.features.row_columns import ITEM, ROW, TIME, USER, user_column


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
