"""The events of users, sorted one range of users at a time, and the histories of each request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import read_array, read_frame, write_frame, write_views
from corank.core.ragged import Ragged
from corank.data.packing.event_pieces import ListPieces, encode_events, write_events
from corank.data.packing.first_pass import PackedTables
from corank.data.packing.known_events import write_earlier_events, write_known_events
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, find_pieces, write_beside
from corank.features.history_events import EventParts, Events
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema


@dataclass(frozen=True)
class SortEvents:
    """Sorts the events of a range of users; its number is the task."""

    name: str
    """Of the events."""
    pieces: Sequence[Path]
    """Frames of `user` index, ascending, the parts of events, and `row` of their table."""
    users: int
    ranges: int
    spill: Path
    parts: EventParts

    def bounds(self, n: int) -> tuple[int, int]:
        """Return the first user of a range, and the end."""
        return self.users * n // self.ranges, self.users * (n + 1) // self.ranges

    def path(self, n: int) -> Path:
        """Return where the sorted events of a range are written."""
        return self.spill / f"{self.name}.sorted" / f"{n:05d}.arrow"

    def __call__(self, n: int) -> None:
        """Sort the n-th range by user, time and row."""
        events = pl.concat(self._read(*self.bounds(n))).sort("user", "times", "row")
        with write_beside(self.path(n)) as unfinished:
            write_frame(unfinished, events.drop("row"))

    def _read(self, first: int, end: int) -> Iterator[pl.DataFrame]:
        for path in self.pieces:
            piece = read_frame(path)
            a, b = np.searchsorted(piece["user"].to_numpy(), [first, end]).tolist()
            yield piece[a:b]

    def join(self, folder: Path) -> int:
        """Write the events of all ranges as one `Events`. Returns how many are of items that are not in the tables."""
        lengths = []
        for n in range(self.ranges):
            user, (first, end) = read_frame(self.path(n))["user"].to_numpy(), self.bounds(n)
            lengths.append(np.bincount(user - first, minlength=end - first))
        frames = (read_frame(self.path(n)) for n in range(self.ranges))
        return write_events(folder, self.name, self.parts, frames, lengths)


Lists = Mapping[str, tuple[ListPieces, Mapping[str, int]]]
"""By name of events that are listed: their lists, and the number of the first of each partition."""


def _cut_histories(
    folder: Path, schema: Schema, data: DataSettings, lists: Lists, shard: tuple[str, str]
) -> None:
    """Find the events of its user that each request of a shard, the task: split and name, reads, and write them.

    `folder` is that of the packed data.
    """
    of_shard = folder.joinpath(*shard)
    time, histories = read_array(of_shard / "time.npy"), schema.histories()
    for n, name in enumerate(schema.row_features("query").lists):
        if name in histories:
            history = histories[name]
            parts = EventParts.of(schema, history.events)
            events = Events.open(folder / "events", history.events, parts)
            if history.events in lists:
                pieces, base = lists[history.events]
                owners = pieces.read_owners(*shard) + base[shard[1]]
            else:
                owners = read_array(of_shard / "user.npy")
            start, length = events.cut(history, owners, time, data)
            write_views(of_shard / "query", n, Ragged(start, length, events.items))


def write_histories(
    workspace: PackWorkspace,
    inputs: PackSources,
    tables: PackedTables,
    partitions: int,
    shards: Sequence[tuple[str, str]],
) -> None:
    """Sort the events that the partitions left, and cut the histories of all requests.

    Args:
        workspace: of the packing.
        inputs: the tables, and the packing to continue from.
        tables: encoders, items and users.
        partitions: of the log; users are cut into as many ranges.
        shards: split and name of each.
    """
    schema, data = inputs.schema, inputs.data
    folder = workspace.packed / "events"
    folder.mkdir(exist_ok=True)
    lists: dict[str, tuple[ListPieces, Mapping[str, int]]] = {}
    for name, history in {history.events: history for history in schema.histories().values()}.items():
        of = ", ".join(n for n, h in schema.histories().items() if h.events == name)
        parts = EventParts.of(schema, name)
        if history.lists is not None:
            listed = ListPieces(workspace.spill, history)
            base, unknown = listed.join(folder, parts, partitions)
            lists[name] = listed, base
        else:
            if history.table is not None:
                pieces = encode_events(workspace, inputs, tables, history)
            else:
                pieces = write_earlier_events(workspace, inputs, tables, history)
                pieces += find_pieces(workspace.spill, name, partitions)
            users = len(tables.users.ids.values)
            sort = SortEvents(name, pieces, users, partitions, workspace.spill, parts)
            workspace.run(f"events {name}", sort, range(partitions))
            unknown = sort.join(folder)
        if unknown and not history.values:
            workspace.report(
                f"{of}: {unknown:,} events are of items that the tables do not know; they count as an unknown item"
            )
    write_known_events(workspace, inputs)
    if schema.histories():
        workspace.run("histories", partial(_cut_histories, workspace.packed, schema, data, lists), shards)
