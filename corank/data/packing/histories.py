"""The events of users, sorted one range of users at a time, and the histories that each request sees of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_frame, write_views
from corank.core.ragged import Ragged
from corank.core.types import Ints, Longs
from corank.data.packing.pieces import find_pieces
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.features.history import Events
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema


@dataclass(frozen=True)
class SortEvents:
    """Sorts the events of a range of users; its number is the task."""

    name: str
    """Of the events."""
    pieces: Sequence[Path]
    """Frames of `user` index, ascending, `time`, `item` code, `ordinal`, and `row` of the log."""
    users: int
    ranges: int
    spill: Path

    def bounds(self, n: int) -> tuple[int, int]:
        """Return the first user of a range, and the end."""
        return self.users * n // self.ranges, self.users * (n + 1) // self.ranges

    def path(self, n: int) -> Path:
        """Return where the sorted events of a range are written."""
        return self.spill / f"{self.name}.sorted" / f"{n:05d}.arrow"

    def __call__(self, n: int) -> int:
        """Sort the n-th range by user, time and row. Returns how many events it has."""
        events = pl.concat(self._read(*self.bounds(n))).sort("user", "time", "row")
        with write_beside(self.path(n)) as partial:
            write_frame(partial, events.drop("row"))
        return len(events)

    def _read(self, first: int, end: int) -> Iterator[pl.DataFrame]:
        for path in self.pieces:
            piece = read_frame(path)
            a, b = np.searchsorted(piece["user"].to_numpy(), [first, end]).tolist()
            yield piece[a:b]

    def join(self, folder: Path, sizes: Sequence[int]) -> None:
        """Write the events of all ranges as one `Events`, in the memory of a range."""
        count, before = sum(sizes), 0
        with (
            append_array(folder / f"{self.name}.items.npy", (count,), np.int32) as items,
            append_array(folder / f"{self.name}.times.npy", (count,), np.int64) as times,
            append_array(folder / f"{self.name}.ordinals.npy", (count,), np.int32) as ordinals,
            append_array(folder / f"{self.name}.offsets.npy", (self.users + 1,), np.int64) as offsets,
        ):
            offsets(np.zeros(1, dtype=np.int64))
            for n in range(self.ranges):
                part, (first, end) = read_frame(self.path(n)), self.bounds(n)
                items(part["item"].to_numpy())
                times(part["time"].to_numpy())
                ordinals(part["ordinal"].to_numpy())
                of_user = np.bincount(part["user"].to_numpy() - first, minlength=end - first)
                offsets(before + np.cumsum(of_user))
                before += len(part)


@dataclass(frozen=True)
class CutHistories:
    """Finds what each request of a shard, the task, sees of its user's events."""

    folder: Path
    """Of the packed data."""
    schema: Schema
    data: DataSettings

    def __call__(self, shard: tuple[str, str]) -> None:
        """Write the histories of the shard, of a split and a name."""
        folder = self.folder.joinpath(*shard)
        user, time = read_array(folder / "user.npy"), read_array(folder / "time.npy")
        histories = self.schema.histories()
        for n, name in enumerate(self.schema.row_features("query").lists):
            if name in histories:
                write_views(folder / "query", n, self._cut(name, user, time))

    def _cut(self, name: str, user: Ints, time: Longs) -> Ragged:
        history = self.schema.histories()[name]
        events = Events.open(self.folder / "events", history.events)
        after, data = history.known_after(self.data), self.data
        start, length = events.slices(user, time, after, history.every, data.timezone, history.last)
        return Ragged(start, length, events.items)


def write_histories(
    workspace: PackWorkspace,
    schema: Schema,
    data: DataSettings,
    partitions: int,
    shards: Sequence[tuple[str, str]],
) -> None:
    """Sort the events that the partitions left, and cut the histories of all requests.

    Args:
        workspace: of the packing.
        schema: the features.
        data: the settings of the log.
        partitions: of the log; users are cut into as many ranges.
        shards: split and name of each.
    """
    folder = workspace.packed / "events"
    folder.mkdir(exist_ok=True)
    users = len(read_frame(workspace.packed / "users.arrow"))
    for name in dict.fromkeys(history.events for history in schema.histories().values()):
        pieces = find_pieces(workspace.spill, name, partitions)
        sort = SortEvents(name, pieces, users, partitions, workspace.spill)
        sizes = workspace.run(f"events {name}", sort, range(partitions))
        sort.join(folder, sizes)
    if schema.histories():
        workspace.run("histories", CutHistories(workspace.packed, schema, data), shards)
