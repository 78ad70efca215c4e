"""The events of tables of their own that priors count, keyed by their user and item, range by range.

Letters: E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.time import NEVER
from corank.core.types import Longs
from corank.data.event_tables import EventColumns
from corank.data.packing.first_pass import PackedTables
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, write_beside, write_counts
from corank.data.point_in_time import VersionedRows
from corank.data.tables import RowRange, cut_table
from corank.data.versioned_tables import read_versions
from corank.engine.base import SentByFields
from corank.features.encoders import Encoders
from corank.features.encoding import Placement
from corank.features.log_schema import ITEM, TIME, USER
from corank.features.operands import OperandNames, OperandRows, Operands
from corank.features.priors import CountedFeature
from corank.features.schema import Schema


def counted_tables(schema: Schema) -> list[str]:
    """Name the tables of `data.events` whose events priors count."""
    return list(dict.fromkeys(prior.events for prior in schema.priors().values() if prior.events))


def event_priors(schema: Schema, table: str) -> dict[str, CountedFeature]:
    """The priors that count the events of a table."""
    return {name: prior for name, prior in schema.priors().items() if prior.events == table}


def event_operands(schema: Schema, table: str, placement: Placement) -> OperandNames:
    """Name the operands of a placement that the priors of a table of events count by."""
    derived = schema.derived()
    return schema.operand_names(placement, [derived[name] for name in event_priors(schema, table)])


def select_item_operands(
    held: Operands, encoders: Encoders, wanted: OperandNames, key: str, row: Longs, ids: pl.Series
) -> Operands:
    """Select the operands of items; of an unknown one the id is known and all else missing: (E).

    Args:
        held: of the known rows.
        encoders: of the features of columns.
        wanted: those to select.
        key: the column of the id.
        row: of each item, −1 for an unknown one: (E,).
        ids: of each: (E,).
    """
    unknown = np.flatnonzero(row < 0)
    ids_alone, missing = ids.gather(unknown), pl.Series([None] * len(unknown), dtype=pl.Null)

    def column(name: str) -> pl.Series:
        return ids_alone if encoders.schema.column(name) == key else missing

    bare = encoders.operands(wanted, column, len(unknown))
    if len(unknown) == len(row):
        return bare
    known = held.reorder(wanted).take(np.maximum(row, 0))
    return known.with_rows(unknown, bare) if len(unknown) else known


@dataclass(frozen=True)
class CountEvents(SentByFields):
    """Keys the events of a range of rows of a table for all priors of it; the task is its number and the range."""

    inputs: PackSources
    tables: PackedTables
    name: str
    """Of the table among `data.events`."""

    @property
    def _users_file(self) -> Path:
        """The rows of the users of the events."""
        return self.tables.spill / f"events.{self.name}.users.arrow"

    @property
    def _columns(self) -> EventColumns:
        return EventColumns.of(self.inputs.data.events[self.name], self.inputs.data)

    @cached_property
    def _users(self) -> VersionedRows:
        return VersionedRows(read_frame(self._users_file))

    @cached_property
    def _priors(self) -> Mapping[int, tuple[str, CountedFeature]]:
        """Name and settings by the number that they have among all priors."""
        return {n: p for n, p in enumerate(self.tables.schema.priors().items()) if p[1].events == self.name}

    def write_users(self) -> None:
        """Check all events, and write the rows of their users. Raises DataError."""
        table, users, key = self.inputs.events[self.name], self.inputs.users, self.inputs.data.user
        kind = self.tables.users.ids.values.dtype
        self._columns.check(table, kind, self.tables.items.ids.values.dtype)
        named = self.tables.schema.column_names(self._operands("query").names)
        columns = [column for column in named if column != key]
        wanted = table.distinct(self._columns.user) if columns else pl.Series(dtype=kind)
        if users is None or not columns:
            versions = VersionedRows.from_ids(wanted)
        else:
            versions, _ = read_versions(users, key, columns, wanted, only=True)
        with write_beside(self._users_file) as partial:
            write_frame(partial, versions.frame)

    def __call__(self, task: tuple[int, RowRange]) -> None:
        """Write a piece of the range for each prior. Raises DataError."""
        number, rows = task
        table, schema = self.inputs.events[self.name], self.tables.schema
        counts: dict[int, list[pl.DataFrame]] = {n: [] for n in self._priors}
        for batch in rows.read(table, self._columns.select(table)):
            users, items = self._of_users(batch), self._of_items(batch)
            operands = OperandRows.pairs(schema.operand_placements, users, items, np.arange(len(batch)), None)
            for n, (_, prior) in self._priors.items():
                counts[n].append(prior.count_events(batch, self.inputs.data, operands))
        for n, frames in counts.items():
            since = self.inputs.start.periods.get(self._priors[n][0], NEVER)
            write_counts(self.tables.spill, n, f"{number:05d}", pl.concat(frames), since)

    def _operands(self, placement: Placement) -> OperandNames:
        return event_operands(self.tables.schema, self.name, placement)

    def _of_users(self, events: pl.DataFrame) -> Operands:
        """The operands of the events' users, at the time of each event: (E)."""
        wanted, key = self._operands("query"), self.inputs.data.user
        columns = {name: self.tables.schema.column(name) for name in wanted.names}
        user_rows = pl.DataFrame()
        if set(columns.values()) - {key}:
            user_rows = self._users.frame[self._users.find(events[USER], events[TIME].to_numpy())]
        value = lambda name: events[USER] if columns[name] == key else user_rows[columns[name]]  # noqa: E731
        return self.tables.encoders.operands(wanted, value, len(events))

    def _of_items(self, events: pl.DataFrame) -> Operands:
        """The operands of the events' items, at the time of each event: (E)."""
        tables = self.tables
        item, time = tables.items.ids.find(events[ITEM]), events[TIME].to_numpy()
        row = np.full(len(events), -1)
        known = np.flatnonzero(item >= 0)
        row[known] = tables.items.find_at(item[known], time[known])
        wanted, key = self._operands("item"), self.inputs.data.item
        return select_item_operands(tables.item_operands, tables.encoders, wanted, key, row, events[ITEM])


def count_events(workspace: PackWorkspace, inputs: PackSources, tables: PackedTables, name: str) -> int:
    """Key the events of a table for the priors that count them. Returns of how many ranges. Raises DataError."""
    count, ranges = CountEvents(inputs, tables, name), cut_table(inputs.events[name])
    workspace.run_here(f"users of events {name}", count.write_users)
    workspace.run(f"count events {name}", count, list(enumerate(ranges)))
    return len(ranges)
