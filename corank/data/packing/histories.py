"""The events of users, sorted one range of users at a time, and the histories of each request."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_frame, write_views
from corank.core.ragged import Ragged
from corank.core.types import Ints, Longs
from corank.data.packing.event_pieces import ENCODERS, ListPieces, encode_events, write_events
from corank.data.packing.known_events import write_earlier_events, write_known_events
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, find_pieces, write_beside
from corank.features.encoders import Encoders
from corank.features.history_events import EventParts, Events, History
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

    def __call__(self, n: int) -> int:
        """Sort the n-th range by user, time and row. Returns how many events it has."""
        events = pl.concat(self._read(*self.bounds(n))).sort("user", "times", "row")
        with write_beside(self.path(n)) as partial:
            write_frame(partial, events.drop("row"))
        return len(events)

    def _read(self, first: int, end: int) -> Iterator[pl.DataFrame]:
        for path in self.pieces:
            piece = read_frame(path)
            a, b = np.searchsorted(piece["user"].to_numpy(), [first, end]).tolist()
            yield piece[a:b]

    def join(self, folder: Path, sizes: Sequence[int]) -> int:
        """Write the events of all ranges as one `Events`, in the memory of a range.

        Returns:
            How many are of items that are not in the tables.
        """
        frames = (read_frame(self.path(n)) for n in range(self.ranges))
        unknown = write_events(folder, self.name, self.parts, frames, sum(sizes))
        before = 0
        with append_array(folder / f"{self.name}.offsets.npy", (self.users + 1,), np.int64) as offsets:
            offsets(np.zeros(1, dtype=np.int64))
            for n in range(self.ranges):
                user, (first, end) = read_frame(self.path(n))["user"], self.bounds(n)
                of_user = np.bincount(user.to_numpy() - first, minlength=end - first)
                offsets(before + np.cumsum(of_user))
                before += len(user)
        return unknown


@dataclass(frozen=True)
class CutHistories:
    """Finds the events of its user that each request of a shard, the task, reads."""

    folder: Path
    """Of the packed data."""
    schema: Schema
    data: DataSettings
    lists: Mapping[str, tuple[ListPieces, Mapping[str, int]]]
    """By name of events that are listed: their lists, and the number of the first of each partition."""

    def __call__(self, shard: tuple[str, str]) -> None:
        """Write the histories of the shard, of a split and a name."""
        folder = self.folder.joinpath(*shard)
        time, histories = read_array(folder / "time.npy"), self.schema.histories()
        for n, name in enumerate(self.schema.row_features("query").lists):
            if name in histories:
                history = histories[name]
                events = Events.open(
                    self.folder / "events", history.events, EventParts.of(self.schema, history.events)
                )
                start, length = events.cut(history, self._owners(history, shard), time, self.data)
                write_views(folder / "query", n, Ragged(start, length, events.items))

    def _owners(self, history: History, shard: tuple[str, str]) -> Ints | Longs:
        """Owner of the events of each request of a shard: its user, or its list."""
        if history.events not in self.lists:
            return read_array(self.folder.joinpath(*shard) / "user.npy")
        pieces, base = self.lists[history.events]
        return pieces.read_owners(*shard) + base[shard[1]]


def write_histories(
    workspace: PackWorkspace, inputs: PackSources, partitions: int, shards: Sequence[tuple[str, str]]
) -> None:
    """Sort the events that the partitions left, and cut the histories of all requests.

    Args:
        workspace: of the packing.
        inputs: the tables, and the packing to continue from.
        partitions: of the log; users are cut into as many ranges.
        shards: split and name of each.
    """
    schema, data = inputs.schema, inputs.data
    folder = workspace.packed / "events"
    folder.mkdir(exist_ok=True)
    users = len(read_frame(workspace.packed / "users.arrow"))
    lists: dict[str, tuple[ListPieces, Mapping[str, int]]] = {}
    for name, history in {history.events: history for history in schema.histories().values()}.items():
        of = ", ".join(n for n, h in schema.histories().items() if h.events == name)
        parts = EventParts.of(schema, name)
        if history.lists is not None:
            listed = ListPieces(workspace.spill, history, parts)
            base, unknown = listed.join(folder, partitions)
            lists[name] = listed, base
        else:
            if history.table is not None:
                pieces = encode_events(workspace, inputs, history)
            else:
                encoders = Encoders.load(workspace.spill / ENCODERS, schema, derived=False)
                pieces = write_earlier_events(workspace, inputs, history, encoders)
                pieces += find_pieces(workspace.spill, name, partitions)
            sort = SortEvents(name, pieces, users, partitions, workspace.spill, parts)
            sizes = workspace.run(f"events {name}", sort, range(partitions))
            unknown = sort.join(folder, sizes)
        if unknown and not history.values:
            workspace.report(
                f"{of}: {unknown:,} events are of items that the tables do not know; they count as an unknown item"
            )
    write_known_events(workspace, inputs)
    if schema.histories():
        workspace.run("histories", CutHistories(workspace.packed, schema, data, lists), shards)
