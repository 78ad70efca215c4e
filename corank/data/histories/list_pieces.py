"""The events that columns list: encoded partition by partition, then joined as one `Events`, list by list.

Letters: N rows with lists · E events of all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_arrays
from corank.core.errors import DataError
from corank.core.types import Longs
from corank.data.histories.event_files import EventEncoder, write_events
from corank.data.packing.pieces import find_pieces, write_piece
from corank.data.packing.workspace import write_beside
from corank.features.histories.event_lists import ListedEvents
from corank.features.history import EventParts, History
from corank.features.schema import Schema


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
