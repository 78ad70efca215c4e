"""Past events that later requests may still read: kept for later packings, and taken over from an earlier one.

Events of tables of their own are kept unchanged from the tables; those of the log are taken from the earlier packing's
histories, encoded again, of users that are still known.

Letters: E events.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.errors import DataError
from corank.core.hash_index import Keys
from corank.core.time import MILLISECOND, NEVER, floor_times
from corank.core.types import Ints, Longs, Mask
from corank.data.event_tables import EventColumns
from corank.data.packing.earlier_pack import EarlierPack
from corank.data.packing.first_pass import PackedTables
from corank.data.packing.sources import PackSources
from corank.data.packing.state import STATE, keep_from
from corank.data.packing.workspace import PackWorkspace, write_beside, write_piece
from corank.data.tables import RowRange, Table, cut_table
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, UNKNOWN, Vocabulary
from corank.features.history import History
from corank.features.history_events import EventParts, Events
from corank.features.log_schema import ROW, TIME, USER, DataSettings


@dataclass(frozen=True)
class EventTrim:
    """Keeps the events that requests from a time on read: those after a bound, and the newest before it per user."""

    bound: int
    """ms UTC."""
    last: int
    """Events of a user before the bound, at most."""

    @classmethod
    def of(cls, histories: Sequence[History], since: int, data: DataSettings) -> Self:
        """Trim for requests from a time on, ms UTC, of histories that share the events."""
        bounds = []
        for history in histories:
            cut = since
            if history.every is not None:
                cut = int(floor_times(np.array([since]), history.every, data.timezone)[0])
            bounds.append(cut - history.known_after(data) // MILLISECOND)
        return cls(min(bounds), max(history.last for history in histories))

    def mark(self, user: Longs, time: Longs) -> Mask:
        """Mark the events to keep, of users one after another, the oldest first: (E,), (E,) → (E,)."""
        old = np.flatnonzero(time < self.bound)
        # the number of each old event from the end of its user's
        ends = np.append(np.flatnonzero(np.diff(user[old])), len(old) - 1) if len(old) else old
        end = ends[np.searchsorted(ends, np.arange(len(old)))] if len(old) else old
        kept = np.ones(len(user), dtype=bool)
        kept[old] = end - np.arange(len(old)) < self.last
        return kept

    def select(self, events: pl.DataFrame) -> pl.DataFrame:
        """Keep events of USER, TIME and ROW, sorted by these."""
        ordered = events.sort(USER, TIME, ROW)
        user = ordered[USER].rank("dense").to_numpy().astype(np.int64)
        return ordered.filter(pl.Series(self.mark(user, ordered[TIME].to_numpy()), dtype=pl.Boolean))


EVENTS = "events"
"""The folder within STATE."""


def events_file(packed: Path, data: DataSettings, history: History) -> Path:
    """Return the file of the events of a history's table: one for items, and one for each history of other values."""
    number = list(data.events).index(str(history.table))
    return packed / STATE / EVENTS / f"{number}{f'.{history.of}' if history.values else ''}.arrow"


def event_column(column: str) -> str:
    """Return the column of an attribute of events."""
    return f"@event {column}"


def _trim_range(
    table: Table,
    wanted: list[pl.Expr],
    span: tuple[int, int],
    trim: EventTrim,
    folder: Path,
    task: tuple[int, RowRange],
) -> str:
    """Write the events of a range of rows, with its number the task, that are needed and lie in a span, ms UTC.

    Returns the name of the file. Raises DataError.
    """
    number, rows = task
    inside = pl.col(TIME).is_between(*span, closed="left")
    parts = [batch.filter(inside) for batch in rows.read(table, wanted)]
    name = f"{number:05d}.arrow"
    with write_beside(folder / name) as unfinished:
        write_frame(unfinished, trim.select(pl.concat(parts)))
    return name


def write_known_events(workspace: PackWorkspace, inputs: PackSources) -> None:
    """Write the events of all tables that histories are made of. Raises DataError."""
    of_tables = [history for history in inputs.schema.histories().values() if history.table]
    files: dict[Path, list[History]] = {}
    for history in of_tables:
        files.setdefault(events_file(workspace.packed, inputs.data, history), []).append(history)
    for path, sharing in files.items():
        _write(workspace, inputs, path, sharing)


def _write(workspace: PackWorkspace, inputs: PackSources, path: Path, sharing: Sequence[History]) -> None:
    """Write the events of a file: those of the rows of their table, and those of the earlier packing."""
    name = str(sharing[0].table)
    trim = EventTrim.of(sharing, inputs.until, inputs.data)
    table, folder = inputs.events[name], workspace.spill / f"known {path.stem}"
    wanted = select_events(inputs, sharing[0])
    since = inputs.start.events.get(sharing[0].events, NEVER)
    trimmed = partial(_trim_range, table, wanted, (since, inputs.until), trim, folder)
    files = workspace.run(f"known events {path.stem}", trimmed, list(enumerate(cut_table(table))))
    frames = [read_frame(folder / file) for file in files]
    if since > NEVER:
        frames.insert(0, read_known_events(inputs, sharing[0], frames[0].schema))
    events = trim.select(pl.concat(frames))
    users = events.group_by(USER).agg(pl.col(TIME).max())
    gone = users.filter(pl.col(TIME) < keep_from(inputs.schema, inputs.data.user, inputs.until))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_frame(path, events.join(gone, on=USER, how="anti", maintain_order="left").rechunk())


def event_attributes(inputs: PackSources, history: History) -> list[str]:
    """Name the columns of a table that are attributes of its events."""
    return inputs.schema.column_names(EventParts.of(inputs.schema, history.events).attributes)


def select_events(inputs: PackSources, history: History) -> list[pl.Expr]:
    """Select the columns that are read of a history's table: USER, ITEM, TIME, and the attributes of its events."""
    table, settings = inputs.events[str(history.table)], inputs.data.events[str(history.table)]
    columns = EventColumns.of(settings, inputs.data, history).select(table)
    return [*columns, *(pl.col(c).alias(event_column(c)) for c in event_attributes(inputs, history))]


def read_known_events(
    inputs: PackSources, history: History, schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Read the events of a history's table that an earlier packing kept; they are numbered before all of the table.

    Args:
        inputs: names the earlier packing.
        history: of the table.
        schema: the columns to return; an attribute that was not kept is missing.

    Raises DataError if they are damaged, or of other types.
    """
    earlier = inputs.start.earlier
    assert earlier is not None and history.table is not None
    events = read_frame(events_file(earlier.folder, earlier.manifest.data, history))
    absent = [pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in events.columns]
    numbered = events.with_columns(pl.int_range(-len(events), 0, dtype=pl.Int64).alias(ROW), *absent)
    try:
        return numbered.select(pl.col(name).cast(kind) for name, kind in schema.items())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"data.events.{history.table}: of other types than before: {error}") from None


USERS = 2**17
"""Users whose events are encoded at a time."""


def write_earlier_events(
    workspace: PackWorkspace, inputs: PackSources, tables: PackedTables, history: History
) -> list[Path]:
    """Write the log's events of an earlier packing. Returns the pieces, none if it had no such events.

    Args:
        workspace: of the packing.
        inputs: the tables, and the packing to continue from.
        tables: encoders, items and users.
        history: one of those that share the events.
    """
    name, earlier = history.events, inputs.start.earlier
    if earlier is None:
        return []
    if name not in inputs.start.events:
        workspace.report(f"events '{name}' begin now: {earlier.location} has none of them")
        return []
    sharing = [h for h in inputs.schema.histories().values() if h.events == name]
    trim = EventTrim.of(sharing, inputs.start.since, inputs.data)
    pieces = _encode(earlier, inputs.start.events[name], tables, history, trim)
    return [write_piece(tables.spill, name, f"earlier-{n:05d}", piece) for n, piece in enumerate(pieces)]


def _encode(
    earlier: EarlierPack, since: int, tables: PackedTables, history: History, trim: EventTrim
) -> Iterator[pl.DataFrame]:
    """Encode the events before a time, of some users at a time."""
    parts = EventParts.of(earlier.schema, history.events)
    events = Events.open(earlier.folder / "events", history.events, parts)
    users = read_frame(earlier.folder / "users.arrow")["user"]
    ids = read_frame(earlier.folder / "items" / "keys.arrow")["item"].unique(maintain_order=True)
    known, items, encoders = tables.users.ids, tables.items.ids, tables.encoders
    codes, ordinals = encoders.codes(history.of, ids), items.find(ids).astype(np.int32)
    moved, back = _move_codes(earlier, history, encoders), _find_codes(earlier, history, items)
    for first in range(0, len(users), USERS):
        end = min(first + USERS, len(users))
        user = known.find(users[first:end])
        start, stop = int(events.offsets[first]), int(events.offsets[end])
        owner = np.repeat(user, np.diff(events.offsets[first : end + 1]))
        time, ordinal, code = events.times[start:stop], events.ordinals[start:stop], events.items[start:stop]
        kept = np.flatnonzero((owner >= 0) & (time < since))
        kept = kept[trim.mark(owner[kept], time[kept])]
        ordinal, code = ordinal[kept], code[kept]
        yield pl.DataFrame(
            {
                "user": owner[kept].astype(np.int32),
                "times": time[kept],
                "items": np.where(ordinal < 0, moved[code], _take(codes, ordinal, UNKNOWN)),
                "row": start + kept,
                "ordinals": np.where(ordinal < 0, back[code], _take(ordinals, ordinal, -1)),
            }
        ).sort("user", maintain_order=True)


def _move_codes(earlier: EarlierPack, history: History, encoders: Encoders) -> Ints:
    """The new code of each code of an earlier packing: an event has no more than it when its item left the table."""
    owner, before = encoders.schema.table_of(history.of), earlier.encoders
    codes = before.fitted[before.schema.table_of(history.of)]
    moved = codes.find_rows(encoders.fitted[owner])
    return np.full(codes.size, UNKNOWN, dtype=np.int32) if moved is None else moved


def _find_codes(earlier: EarlierPack, history: History, items: Keys) -> Ints:
    """The index among items of each code of an earlier packing: an item that left the table may return."""
    codes = earlier.encoders.fitted[earlier.schema.table_of(history.of)]
    indices = np.full(codes.size, -1, dtype=np.int32)
    if isinstance(codes, Vocabulary):
        indices[FIRST_KNOWN:] = items.find(codes.values)
    return indices


def _take(values: Ints, ordinal: Ints, otherwise: int) -> Ints:
    """Take the values of items, `otherwise` where the item was unknown: (E,)."""
    if not len(values):
        return np.full(len(ordinal), otherwise, dtype=np.int32)
    item_values: Ints = np.where(ordinal < 0, otherwise, values[np.maximum(ordinal, 0)]).astype(np.int32)
    return item_values
