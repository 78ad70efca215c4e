"""Events encoded: those of tables of their own, range by range, and those that columns list, partition by partition.

A piece is a frame with a column for each part of `Events`. Pieces of tables are sorted to histories; lists are
joined as they are.

Letters: R requests · N rows with lists · E events.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import append_array, read_frame
from corank.core.errors import DataError
from corank.core.time import NEVER
from corank.core.types import Longs
from corank.data.event_tables import EventColumns
from corank.data.log_rows import request_columns
from corank.data.packing.first_pass import PackedTables
from corank.data.packing.known_events import event_attributes, event_column, read_known_events, select_events
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, find_pieces, write_piece
from corank.data.tables import RowRange, Table, cut_table
from corank.engine.base import SentByFields
from corank.features.encoding import hash_values
from corank.features.history import History, ListedEvents, split_aligned
from corank.features.history_events import EventParts
from corank.features.log_schema import ID, ITEM, ROW, TIME, USER
from corank.features.schema import Schema


def encode_event_parts(
    tables: PackedTables, history: History, items: pl.Series, columns: Mapping[str, pl.Series]
) -> pl.DataFrame:
    """Encode E events. Raises DataError for values that a feature cannot encode.

    Args:
        tables: encoders and items.
        history: one of those that share the events.
        items: ids: (E,).
        columns: attributes of events, by column: (E,).

    Returns:
        A column for each part but the time. Items that are in no table have the ordinal −1.
    """
    encoders, schema, parts = tables.encoders, tables.schema, EventParts.of(tables.schema, history.events)
    ordinals = np.full(len(items), -1) if history.values else tables.items.ids.find(items)
    arrays: dict[str, NDArray[Any]] = {
        "items": encoders.codes(history.of, items),
        "ordinals": ordinals.astype(np.int32),
    }
    if parts.keys:
        arrays["keys"] = hash_values(items, history.of)
    for name, part in parts.attributes.items():
        arrays[part] = encoders.codes(name, columns[schema.column(name)])
    for name, part in parts.attribute_keys.items():
        arrays[part] = hash_values(columns[schema.column(name)], name)
    return pl.DataFrame(arrays)


def write_events(
    folder: Path, name: str, parts: EventParts, frames: Iterable[pl.DataFrame], lengths: Sequence[Longs]
) -> int:
    """Write all parts of events as one `Events`, in the memory of a frame.

    Args:
        folder: of all events.
        name: of these.
        parts: what is kept of an event.
        frames: a column for each part, in order.
        lengths: how many events each user, or list, has, in parts.

    Returns:
        How many events are of items that are not in the tables.
    """
    unknown, before = 0, 0
    offsets = (sum(map(len, lengths)) + 1,)
    with append_array(folder / f"{name}.offsets.npy", offsets, np.int64) as append_ends:
        append_ends(np.zeros(1, dtype=np.int64))
        for length in lengths:
            append_ends(before + np.cumsum(length, dtype=np.int64))
            before += int(length.sum())
    with ExitStack() as stack:
        append = {
            part: stack.enter_context(append_array(folder / f"{name}.{part}.npy", (before,), kind))
            for part, kind in parts.types.items()
        }
        for frame in frames:
            unknown += int((frame["ordinals"] < 0).sum())
            for part, add in append.items():
                add(frame[part].to_numpy())
    return unknown


@dataclass(frozen=True)
class EncodeEvents(SentByFields):
    """Encodes a range of rows of an events table, with its number: the task. Leaves a piece for `SortEvents`."""

    inputs: PackSources
    tables: PackedTables
    history: History
    """One of those that share the events."""

    @property
    def _table(self) -> Table:
        return self.inputs.events[str(self.history.table)]

    @cached_property
    def _columns(self) -> EventColumns:
        data = self.inputs.data
        return EventColumns.of(data.events[str(self.history.table)], data, self.history)

    @property
    def _since(self) -> int:
        """Events before it, ms UTC, are left out: an earlier packing kept them."""
        return self.inputs.start.events.get(self.history.events, NEVER)

    @cached_property
    def _attributes(self) -> list[str]:
        return event_attributes(self.inputs, self.history)

    @property
    def _wanted(self) -> list[pl.Expr]:
        return select_events(self.inputs, self.history)

    def check(self) -> None:
        """Check all rows of the table. Raises DataError."""
        items = None if self.history.values else self.tables.items.ids.values.dtype
        self._columns.check(self._table, self.tables.users.ids.values.dtype, items)

    def __call__(self, task: tuple[int, RowRange]) -> None:
        """Write the piece of the range: the events of the log's users. Raises DataError."""
        number, rows = task
        later = pl.col(TIME) >= self._since
        pieces = [self._encode(batch.filter(later)) for batch in rows.read(self._table, self._wanted)]
        write_piece(self.tables.spill, self.history.events, f"{number:05d}", pl.concat(pieces).sort("user"))

    def _encode(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Encode the events of the log's users."""
        user = self.tables.users.ids.find(batch[USER])
        known = np.flatnonzero(user >= 0)
        events = batch[known]
        attributes = {column: events[event_column(column)] for column in self._attributes}
        encoded = encode_event_parts(self.tables, self.history, events[ITEM], attributes)
        return encoded.with_columns(
            pl.Series("user", user[known].astype(np.int32)),
            events[TIME].alias("times"),
            events[ROW].alias("row"),
        )

    def write_earlier(self) -> list[Path]:
        """Write a piece of the events that an earlier packing kept. Returns its path, if there is one."""
        if self._since == NEVER:
            return []
        types = self._table.collect(self._table.frame.select(self._wanted).head(0)).schema
        events = read_known_events(self.inputs, self.history, {**types, ROW: pl.Int64()})
        piece = self._encode(events.filter(pl.col(TIME) < self._since)).sort("user", maintain_order=True)
        return [write_piece(self.tables.spill, self.history.events, "earlier", piece)]


def encode_events(
    workspace: PackWorkspace, inputs: PackSources, tables: PackedTables, history: History
) -> list[Path]:
    """Encode the events of a history's table, range by range, and those of an earlier packing.

    Returns the pieces. Raises DataError.
    """
    encode = EncodeEvents(inputs, tables, history)
    ranges = cut_table(inputs.events[str(history.table)])
    encode.check()
    workspace.run(f"encode {history.events}", encode, list(enumerate(ranges)))
    return [*encode.write_earlier(), *find_pieces(workspace.spill, history.events, len(ranges))]


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
        pieces = ListPieces(spill, sharing[first])
        yield pieces, [first, *beside], most


@dataclass(frozen=True)
class ListPieces:
    """The lists of events of one name, partition by partition, in the spill."""

    spill: Path
    history: History
    """One of those that share them."""

    @property
    def _name(self) -> str:
        return self.history.events

    def write(
        self,
        shard: str,
        values: Mapping[str, pl.Series],
        tables: PackedTables,
        most: int,
        describe: Callable[[int], str],
    ) -> None:
        """Write the lists of N rows.

        Args:
            shard: the partition.
            values: by column: (N,).
            tables: encoders and items.
            most: so many events a row are needed, if their times are not known.
            describe: names a row, for messages.

        Raises:
            DataError: the lists of a row cannot be read.
        """
        lists, kind = self.history.lists, tables.items.ids.values.dtype
        assert lists is not None
        parts = {name: split_aligned(part, lists.separator, describe(0)) for name, part in values.items()}
        listed = ListedEvents.read(lists, parts, kind == pl.String, describe)
        if listed.times is None:
            listed = listed.newest(most)
        items, beside = pl.Series(listed.items), {n: pl.Series(v) for n, v in listed.parallel.items()}
        if items.dtype not in (kind, pl.Null):
            raise DataError(
                f"{describe(0)}: column '{lists.column}' lists {items.dtype}, such as {items[0]!r}; "
                f"ids of items are {kind}"
            )
        frame = encode_event_parts(tables, self.history, items, beside)
        if listed.times is not None:
            frame = frame.with_columns(times=pl.Series(listed.times))
        write_piece(self.spill, self._name, shard, frame)
        write_piece(self.spill, f"{self._name}.length", shard, pl.DataFrame({"length": listed.length}))

    def write_owners(self, split: str, shard: str, owner: Longs) -> None:
        """Write which list of its partition each request of a shard has: (R,)."""
        piece = pl.DataFrame({"owner": owner})
        write_piece(self.spill, f"{self._name}.owners", f"{split}.{shard}", piece)

    def read_owners(self, split: str, shard: str) -> Longs:
        """Read what `write_owners` wrote: (R,)."""
        path = self.spill / f"{self._name}.owners" / f"{split}.{shard}.arrow"
        return read_frame(path)["owner"].to_numpy()

    def join(self, folder: Path, parts: EventParts, partitions: int) -> tuple[dict[str, int], int]:
        """Write the lists of all partitions as one `Events`, in the memory of a partition.

        Returns:
            By partition, the number of its first list; and how many events are of items that are not in the tables.
        """
        pieces = find_pieces(self.spill, self._name, partitions)
        files = find_pieces(self.spill, f"{self._name}.length", partitions)
        lengths = [read_frame(path)["length"].to_numpy() for path in files]
        bases = np.cumsum([0, *map(len, lengths)]).tolist()
        unknown = write_events(folder, self._name, parts, map(read_frame, pieces), lengths)
        return dict(zip((path.stem for path in pieces), bases, strict=False)), unknown


def write_lists(
    inputs: PackSources, tables: PackedTables, shard: str, first_rows: pl.DataFrame
) -> list[tuple[ListPieces, Longs]]:
    """Write the lists of a partition, read from the log or from the table of users, each list of a user's once.

    Args:
        inputs: settings and features.
        tables: encoders, items and users.
        shard: the partition.
        first_rows: a row of the log for each request: (R,).

    Returns:
        Which list of the partition each request has: (R,) for each source of events.

    Raises:
        DataError: lists cannot be read.
    """
    written = []
    for pieces, names, most in list_sources(inputs.schema, tables.spill):
        if inputs.sources[names[0]] == "users":
            row = tables.users.find(first_rows[USER], first_rows[TIME].to_numpy())
            distinct, owner = np.unique(row, return_inverse=True)
            rows = tables.users.frame[distinct]
            describe = _namer("users", {inputs.data.user: rows[ID]})
        else:
            owner, rows = np.arange(len(first_rows)), first_rows
            keys = {c: rows[name] for c, name in request_columns(inputs.data).items()}
            describe = _namer("log", keys)
        values = {column: rows[column] for column in inputs.schema.column_names(names)}
        pieces.write(shard, values, tables, most, describe)
        written.append((pieces, owner.astype(np.int64)))
    return written


def _namer(table: str, keys: dict[str, pl.Series]) -> Callable[[int], str]:
    """Make the function that names a row of a table by its keys."""

    def describe(n: int) -> str:
        return f"data.{table}: " + ", ".join(f"{column}={values[n]!r}" for column, values in keys.items())

    return describe
