"""Counts of each item's candidates: of one shard, and merged into those of a split.

A shard's counts are sparse, stored in files, and merged a range of items at a time: memory is that of a shard and,
by item row, the number of its item.

Letters: I items · L levels · M pairs of an item and a level.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from corank.core.arrays import append_array, read_array, read_frame, write_array, write_arrays
from corank.core.time import NEVER
from corank.data.pack_manifest import ShardCount
from corank.data.packed.item_counts import COUNTS, ORDINALS
from corank.data.packed.request_contents import FILE, mark_requests
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.features.log_schema import DataSettings

ITEMS = 2**20
"""Items that are merged at a time."""


@dataclass(frozen=True)
class CountCandidates:
    """Counts the candidates of a shard by item and level; the task is the path of the shard in the packed data."""

    folder: Path
    """Of the packed data."""
    spill: Path
    levels: int
    labels: Sequence[str]

    def __call__(self, shard: str) -> None:
        """Write `cell`, the item times L plus the level, ascending, `candidates` of each, (M,); marks of requests."""
        item = read_array(self.folder / ORDINALS)[read_array(self.folder / shard / "item.npy")]
        cell = item.astype(np.int64) * self.levels + read_array(self.folder / shard / "level.npy")
        cells, candidates = np.unique(cell, return_counts=True)
        files = ("request_start", "level", *(f"label.{label}" for label in self.labels))
        start, level, *labels = (read_array(self.folder / shard / f"{file}.npy") for file in files)
        requests = mark_requests(start, level, self.levels, labels)
        with write_beside(part_of(self.spill, shard)) as partial:
            write_arrays(partial, {"cell": cells, "candidates": candidates, "requests": requests})


@dataclass(frozen=True)
class MergeCounts:
    """Sums the counts of a split's shards, to be opened as `ItemCounts`."""

    folder: Path
    spill: Path
    levels: int
    items: int

    def __call__(self, task: tuple[str, list[str]]) -> None:
        """Write the counts of a split; the task is its name and the paths of its shards."""
        split, shards = task
        parts = [part_of(self.spill, shard) for shard in shards]
        mapped = [(read_array(part / "cell.npy"), read_array(part / "candidates.npy")) for part in parts]
        seen, total = [np.empty(0, dtype=np.int32)], np.zeros(self.levels, dtype=np.int64)
        with write_beside(self.folder / COUNTS / split) as out, ExitStack() as stack:
            out.mkdir()
            columns = [
                append_array(out / f"level{n}.npy", (self.items,), np.int64) for n in range(self.levels)
            ]
            append = [stack.enter_context(column) for column in columns]
            for first, end in pairwise([*range(0, self.items, ITEMS), self.items]):
                summed = np.zeros((end - first) * self.levels, dtype=np.int64)
                for cell, candidates in mapped:
                    here = slice(*np.searchsorted(cell, (first * self.levels, end * self.levels)))
                    summed[cell[here] - first * self.levels] += candidates[here]
                by_item = summed.reshape(-1, self.levels)
                for level, add in enumerate(append):
                    add(by_item[:, level])
                seen.append((np.flatnonzero(by_item.any(1)) + first).astype(np.int32))
                total += by_item.sum(0)
            write_arrays(out, {"seen": np.concatenate(seen), "levels": total})
            marks = [read_array(part / FILE) for part in parts]
            with append_array(out / FILE, (sum(map(len, marks)),), np.uint64) as add_marks:
                for mark in marks:
                    add_marks(mark)


def part_of(spill: Path, shard: str) -> Path:
    """Return the folder of a shard's counts."""
    return spill / "counts" / shard


def count_items(
    workspace: PackWorkspace, splits: Mapping[str, Sequence[ShardCount]], data: DataSettings
) -> None:
    """Write the item of each item row, count the candidates of each split by item and level, and mark its requests."""
    folder, spill, levels = workspace.packed, workspace.spill, len(data.levels)
    items = workspace.run_here("item ordinals", lambda: _write_ordinals(folder))
    shards = {split: [f"{split}/{shard.name}" for shard in counts] for split, counts in splits.items()}
    count = CountCandidates(folder, spill, levels, list(data.labels))
    workspace.run("item counts", count, [shard for of_split in shards.values() for shard in of_split])
    workspace.run("merged item counts", MergeCounts(folder, spill, levels, items), list(shards.items()))


def _write_ordinals(folder: Path) -> int:
    """Write the item of each item row. Returns how many items there are."""
    begins = read_frame(folder / "items" / "keys.arrow")["valid_from"].to_numpy() == NEVER
    with write_beside(folder / ORDINALS) as partial:
        write_array(partial, (np.cumsum(begins) - 1).astype(np.int32))
    return int(begins.sum())
