"""The events of tables of their own, encoded range by range, for histories that are sorted from such pieces.

Events encoded, a column for each part of `Events`, and their files, written frame by frame.

Letters: E events.

The events that columns list: encoded partition by partition, then joined as one `Events`, list by list.

Letters: N rows with lists · E events of all of them.

The lists of events that the requests of a partition have, read from the log or from the table of users.

Letters: R requests.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import append_array, read_array, read_frame, write_arrays
from corank.core.errors import DataError
from corank.core.hash_index import Keys
from corank.core.time import NEVER
from corank.core.types import Longs
from corank.data.column_sources import Source
from corank.data.event_tables import EventColumns
from corank.data.log_rows import request_columns
from corank.data.packing.known_events import event_column, read_known_events
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, find_pieces, write_beside, write_piece
from corank.data.point_in_time import VersionedRows
from corank.data.tables import RowRange, Table, cut_table
from corank.features.encoders import Encoders
from corank.features.encoding import hash_values
from corank.features.history import ListedEvents
from corank.features.history_events import EventParts, History
from corank.features.log_schema import ID, ITEM, ROW, TIME, USER, DataSettings
from corank.features.schema import Schema


@dataclass(frozen=True)
class EventEncoder:
    """Encodes events of a history that is listed: items by their feature, and what else an event has."""

    encoders: Encoders
    items: Keys
    """The distinct items, ascending."""

    def encode(
        self, history: History, parts: EventParts, items: pl.Series, columns: Mapping[str, pl.Series]
    ) -> pl.DataFrame:
        """Encode E events. Raises DataError for values that a feature cannot encode.

        Args:
            history: one of those that share the events.
            parts: what is kept of an event.
            items: ids: (E,).
            columns: attributes of events, by column: (E,).

        Returns:
            A column for each part but the time. Items that are in no table have the ordinal −1.
        """
        schema = self.encoders.schema
        arrays: dict[str, NDArray[Any]] = {}
        ordinals = np.full(len(items), -1) if history.values else self.items.find(items)
        arrays |= {
            "items": self.encoders.codes(history.of, items),
            "ordinals": ordinals.astype(np.int32),
        }
        if parts.keys:
            arrays["keys"] = hash_values(items, history.of)
        for name, part in parts.attributes.items():
            arrays[part] = self.encoders.codes(name, columns[schema.column(name)])
        for name, part in parts.attribute_keys.items():
            arrays[part] = hash_values(columns[schema.column(name)], name)
        return pl.DataFrame(arrays)


def write_events(
    folder: Path, name: str, parts: EventParts, frames: Iterable[pl.DataFrame], count: int
) -> int:
    """Write all parts but the offsets of `count` events, from frames with a column for each part, in order.

    Returns:
        How many events are of items that are not in the tables.
    """
    unknown = 0
    with ExitStack() as stack:
        append = {
            part: stack.enter_context(append_array(folder / f"{name}.{part}.npy", (count,), kind))
            for part, kind in parts.types.items()
        }
        for frame in frames:
            unknown += int((frame["ordinals"] < 0).sum())
            for part, add in append.items():
                add(frame[part].to_numpy())
    return unknown


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


def list_sources(schema: Schema, spill: Path) -> Iterator[tuple["ListPieces", list[str], int]]:
    """List the events that columns list.

    Yields:
        Their pieces; the features that are read from their columns, of which a history is the first; how many events a
        list needs at most.
    """
    listed = {name: history for name, history in schema.histories().items() if history.lists is not None}
    for events in dict.fromkeys(history.events for history in listed.values()):
        sharing = {n: history for n, history in listed.items() if history.events == events}
        beside = [n for n, history in schema.parallels().items() if history in sharing]
        first, most = next(iter(sharing)), max(history.last for history in sharing.values())
        pieces = ListPieces(spill, sharing[first], EventParts.of(schema, events))
        yield pieces, [first, *beside], most


@dataclass(frozen=True)
class ListPieces:
    """The lists of events of one name, partition by partition, in the spill."""

    spill: Path
    history: History
    """One of those that share them."""
    parts: EventParts

    @property
    def name(self) -> str:
        """Of the events."""
        return self.history.events

    def write(
        self,
        shard: str,
        values: Mapping[str, pl.Series],
        encoder: EventEncoder,
        most: int,
        describe: Callable[[int], str],
    ) -> None:
        """Write the lists of N rows.

        Args:
            shard: the partition.
            values: by column: (N,).
            encoder: of events.
            most: so many events a row are needed, if their times are not known.
            describe: names a row, for messages.

        Raises:
            DataError: the lists of a row cannot be read.
        """
        lists = self.history.lists
        assert lists is not None
        text = encoder.items.values.dtype == pl.String
        listed = ListedEvents.read(lists, values, text, describe)
        if listed.times is None:
            listed = listed.newest(most)
        if listed.items.dtype not in (encoder.items.values.dtype, pl.Null):
            raise DataError(
                f"{describe(0)}: column '{lists.column}' lists {listed.items.dtype}, such as {listed.items[0]!r}; "
                f"ids of items are {encoder.items.values.dtype}"
            )
        frame = encoder.encode(self.history, self.parts, listed.items, listed.parallel)
        if listed.times is not None:
            frame = frame.with_columns(times=pl.Series(listed.times))
        write_piece(self.spill, self.name, shard, frame)
        write_piece(self.spill, f"{self.name}.length", shard, pl.DataFrame({"length": listed.length}))

    def owners(self, split: str, shard: str) -> Path:
        """Return the file with the index, in its partition, of the list of each request of a shard."""
        return self.spill / f"{self.name}.owners" / f"{split}.{shard}"

    def write_owners(self, split: str, shard: str, owner: Longs) -> None:
        """Write which list of its partition each request of a shard has: (R,)."""
        with write_beside(self.owners(split, shard)) as folder:
            write_arrays(folder, {"owner": owner})

    def read_owners(self, split: str, shard: str) -> Longs:
        """Read what `write_owners` wrote: (R,)."""
        return read_array(self.owners(split, shard) / "owner.npy", np.int64)

    def join(self, folder: Path, partitions: int) -> tuple[dict[str, int], int]:
        """Write the lists of all partitions as one `Events`, in the memory of a partition.

        Returns:
            By partition, the number of its first list; and how many events are of items that are not in the tables.
        """
        pieces = find_pieces(self.spill, self.name, partitions)
        lengths = [
            read_frame(p)["length"] for p in find_pieces(self.spill, f"{self.name}.length", partitions)
        ]
        bases = np.cumsum([0, *map(len, lengths)]).tolist()
        unknown = write_events(
            folder, self.name, self.parts, map(read_frame, pieces), sum(int(n.sum()) for n in lengths)
        )
        offsets = folder / f"{self.name}.offsets.npy"
        with append_array(offsets, (bases[-1] + 1,), np.int64) as append:
            append(np.zeros(1, dtype=np.int64))
            before = 0
            for length in lengths:
                append(before + np.cumsum(length.to_numpy(), dtype=np.int64))
                before += int(length.sum())
        names = [path.name.removesuffix(".arrow") for path in pieces]
        return dict(zip(names, bases, strict=False)), unknown


@dataclass(frozen=True)
class ListWriter:
    """Writes the pieces of lists of one partition after another."""

    schema: Schema
    data: DataSettings
    sources: dict[str, Source]
    """The table of each feature of a column."""
    spill: Path

    def write(
        self, shard: str, encoder: EventEncoder, users: VersionedRows, first_rows: pl.DataFrame
    ) -> list[tuple[ListPieces, Longs]]:
        """Write the lists of a partition.

        Args:
            shard: the partition.
            encoder: of events.
            users: the rows of users, of which each list is written once.
            first_rows: a row of the log for each request: (R,).

        Returns:
            Which list of the partition each request has: (R,) for each source of events.

        Raises:
            DataError: lists cannot be read.
        """
        written = []
        for pieces, names, most in list_sources(self.schema, self.spill):
            if self.sources[names[0]] == "users":
                row = users.find(first_rows[USER], first_rows[TIME].to_numpy())
                distinct, owner = np.unique(row, return_inverse=True)
                rows = users.frame[distinct]
                describe = _namer("users", {self.data.user: rows[ID]})
            else:
                owner, rows = np.arange(len(first_rows)), first_rows
                keys = {c: rows[name] for c, name in request_columns(self.data).items()}
                describe = _namer("log", keys)
            values = {column: rows[column] for column in self.schema.column_names(names)}
            pieces.write(shard, values, encoder, most, describe)
            written.append((pieces, owner.astype(np.int64)))
        return written


def _namer(table: str, keys: dict[str, pl.Series]) -> Callable[[int], str]:
    """Make the function that names a row of a table by its keys."""

    def describe(n: int) -> str:
        return f"data.{table}: " + ", ".join(f"{column}={values[n]!r}" for column, values in keys.items())

    return describe
