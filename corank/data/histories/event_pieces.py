"""The events of tables of their own, encoded range by range, for histories that are sorted from such pieces."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.core.arrays import read_frame
from corank.core.hash_index import Keys
from corank.data.histories.event_files import EventEncoder
from corank.data.histories.event_tables import EventColumns
from corank.data.packing.pieces import write_piece
from corank.data.packing.workspace import PackWorkspace
from corank.data.row_ranges import RowRange, cut_table
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

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker: all but what is mapped here."""
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
        self.columns.check(self.table, self._users.values.dtype, self._encoder.items.values.dtype)

    def __call__(self, task: tuple[int, RowRange]) -> None:
        """Write the piece of the range: the events of the log's users. Raises DataError."""
        number, rows = task
        parts = EventParts.of(self.schema, self.history.events)
        beside = self.schema.column_names(parts.attributes)
        wanted = [*self.columns.select(self.table), *(pl.col(c).alias(f"@event {c}") for c in beside)]
        pieces = []
        for batch in rows.read(self.table, wanted):
            user = self._users.find(batch[USER])
            known = np.flatnonzero(user >= 0)
            events = batch[known]
            attributes = {column: events[f"@event {column}"] for column in beside}
            encoded = self._encoder.encode(self.history, parts, events[ITEM], attributes)
            pieces.append(
                encoded.with_columns(
                    pl.Series("user", user[known].astype(np.int32)),
                    events[TIME].alias("times"),
                    events[ROW].alias("row"),
                )
            )
        write_piece(self.spill, self.history.events, f"{number:05d}", pl.concat(pieces).sort("user"))


def encode_events(
    workspace: PackWorkspace, schema: Schema, history: History, table: Table, columns: EventColumns
) -> int:
    """Encode the events of a table, range by range. Returns how many pieces there are. Raises DataError."""
    encode = EncodeEvents(schema, history, table, columns, workspace.packed, workspace.spill)
    ranges = cut_table(table)
    encode.check()
    workspace.run(f"encode {history.events}", encode, list(enumerate(ranges)))
    return len(ranges)
