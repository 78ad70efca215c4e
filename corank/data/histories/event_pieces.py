"""The events of tables of their own, encoded range by range, for histories that are sorted from such pieces."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.arrays import read_frame
from corank.core.hash_index import Keys
from corank.core.time import NEVER
from corank.data.histories.event_files import EventEncoder
from corank.data.histories.event_tables import EventColumns
from corank.data.packing.pieces import find_pieces, write_piece
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace
from corank.data.row_ranges import RowRange, cut_table
from corank.data.state.known_events import event_column, read_known_events
from corank.data.tables import Table
from corank.features.encoders import Encoders
from corank.features.history import EventParts, History
from corank.features.row_columns import ITEM, ROW, TIME, USER
from corank.features.schema import Schema

ENCODERS = "encoders"
"""Encoders without those of derived features: what the first pass leaves in the spill."""


@dataclass(frozen=True)
class EncodeEvents:
    """Encodes a range of rows of an events table, with its number: the task. Leaves a piece for `SortEvents`."""

    schema: Schema
    history: History
    """One of those that share the events."""
    table: Table
    columns: EventColumns
    packed: Path
    """The packed data."""
    spill: Path
    since: int
    """Events before it, ms UTC, are left out: an earlier packing kept them."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker, without what is mapped here."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def _users(self) -> Keys:
        return Keys(read_frame(self.packed / "users.arrow")["user"])

    @cached_property
    def _encoder(self) -> EventEncoder:
        encoders = Encoders.load(self.spill / ENCODERS, self.schema, derived=False)
        items = read_frame(self.packed / "items" / "keys.arrow")["item"].unique(maintain_order=True)
        return EventEncoder(encoders, Keys(items))

    def check(self) -> None:
        """Check all rows of the table. Raises DataError."""
        items = None if self.history.values else self._encoder.items.values.dtype
        self.columns.check(self.table, self._users.values.dtype, items)

    def __call__(self, task: tuple[int, RowRange]) -> None:
        """Write the piece of the range: the events of the log's users. Raises DataError."""
        number, rows = task
        later = pl.col(TIME) >= self.since
        pieces = [self._encode(batch.filter(later)) for batch in rows.read(self.table, self.wanted)]
        write_piece(self.spill, self.history.events, f"{number:05d}", pl.concat(pieces).sort("user"))

    @cached_property
    def _parts(self) -> EventParts:
        return EventParts.of(self.schema, self.history.events)

    @property
    def wanted(self) -> list[pl.Expr]:
        """The columns that are read of the table."""
        beside = self.schema.column_names(self._parts.attributes)
        return [*self.columns.select(self.table), *(pl.col(c).alias(event_column(c)) for c in beside)]

    def _encode(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Encode the events of the log's users."""
        user = self._users.find(batch[USER])
        known = np.flatnonzero(user >= 0)
        events, beside = batch[known], self.schema.column_names(self._parts.attributes)
        attributes = {column: events[event_column(column)] for column in beside}
        encoded = self._encoder.encode(self.history, self._parts, events[ITEM], attributes)
        return encoded.with_columns(
            pl.Series("user", user[known].astype(np.int32)),
            events[TIME].alias("times"),
            events[ROW].alias("row"),
        )

    def write_earlier(self, inputs: PackSources) -> list[Path]:
        """Write a piece of the events that an earlier packing kept. Returns its path, if there is one."""
        if self.since == NEVER:
            return []
        types = self.table.collect(self.table.frame.select(self.wanted).head(0)).schema
        events = read_known_events(inputs, self.history, {**types, ROW: pl.Int64()})
        piece = self._encode(events.filter(pl.col(TIME) < self.since)).sort("user", maintain_order=True)
        write_piece(self.spill, self.history.events, "earlier", piece)
        return [self.spill / self.history.events / "earlier.arrow"]


def encode_events(workspace: PackWorkspace, inputs: PackSources, history: History) -> list[Path]:
    """Encode the events of a history's table, range by range, and those of an earlier packing.

    Returns the pieces. Raises DataError.
    """
    name, since = str(history.table), inputs.start.events.get(history.events, NEVER)
    table, columns = inputs.events[name], EventColumns.of(inputs.data.events[name], inputs.data, history)
    folders = workspace.packed, workspace.spill
    encode = EncodeEvents(inputs.schema, history, table, columns, *folders, since)
    ranges = cut_table(table)
    encode.check()
    workspace.run(f"encode {history.events}", encode, list(enumerate(ranges)))
    earlier = encode.write_earlier(inputs)
    return [*earlier, *find_pieces(workspace.spill, history.events, len(ranges))]
