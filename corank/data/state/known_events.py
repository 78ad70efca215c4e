"""The events of tables of their own that later packings still need, unchanged from the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.errors import DataError
from corank.core.time import NEVER
from corank.data.histories.event_tables import EventColumns
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.data.row_ranges import RowRange, cut_table
from corank.data.state.event_trim import EventTrim
from corank.data.state.known_ids import keep_from
from corank.data.state.value_counts import STATE
from corank.data.tables import Table
from corank.features.history import EventParts, History
from corank.features.log_schema import DataSettings
from corank.features.row_columns import ROW, TIME, USER

EVENTS = "events"
"""The folder within STATE."""


def events_file(packed: Path, data: DataSettings, history: History) -> Path:
    """Return the file of the events of a history's table: one for items, and one for each history of other values."""
    number = list(data.events).index(str(history.table))
    return packed / STATE / EVENTS / f"{number}{f'.{history.of}' if history.values else ''}.arrow"


def event_column(column: str) -> str:
    """Return the column of an attribute of events."""
    return f"@event {column}"


@dataclass(frozen=True)
class TrimEvents:
    """Leaves the events of a range of rows, with its number: the task."""

    table: Table
    wanted: list[pl.Expr]
    since: int
    until: int
    trim: EventTrim
    folder: Path

    def __call__(self, task: tuple[int, RowRange]) -> str:
        """Write the events of the range that are needed. Returns the name of the file. Raises DataError."""
        number, rows = task
        inside = pl.col(TIME).is_between(self.since, self.until, closed="left")
        parts = [batch.filter(inside) for batch in rows.read(self.table, self.wanted)]
        name = f"{number:05d}.arrow"
        with write_beside(self.folder / name) as partial:
            write_frame(partial, self.trim.select(pl.concat(parts)))
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
    attributes = event_attributes(inputs, sharing[0])
    columns = EventColumns.of(inputs.data.events[name], inputs.data, sharing[0])
    table, folder = inputs.events[name], workspace.spill / f"known {path.stem}"
    wanted = [*columns.select(table), *(pl.col(c).alias(event_column(c)) for c in attributes)]
    since = inputs.start.events.get(sharing[0].events, NEVER)
    trimmed = TrimEvents(table, wanted, since, inputs.until, trim, folder)
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
    path = events_file(earlier.folder, earlier.manifest.data, history)
    try:
        events = read_frame(path)
        count = len(events)
        absent = [
            pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in events.columns
        ]
        numbered = events.with_columns(pl.int_range(-count, 0, dtype=pl.Int64).alias(ROW), *absent)
        return numbered.select(pl.col(name).cast(kind) for name, kind in schema.items())
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path}: events of data.events.{history.table} that the earlier packing kept cannot be read: {error}"
        ) from None
