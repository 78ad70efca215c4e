"""What priors count, added up one range of keys at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_array, write_arrays
from corank.core.types import Doubles, Longs
from corank.data.dataset import prior_folder
from corank.data.packing.pieces import find_pieces
from corank.data.packing.workspace import PackWorkspace, write_beside
from corank.features.priors import CumulativeCounts, count_rows
from corank.features.schema import Schema


@dataclass(frozen=True)
class CountKeys:
    """Counts a range of the keys of a prior; its number is the task. Keys are hashes: ranges of one width are alike."""

    pieces: Sequence[Path]
    """Frames of `key`, ascending and above 0, `period`, `shown`, `positive`, and `row` of the log."""
    ranges: int
    folder: Path
    """Receives a folder for each range."""

    def path(self, n: int) -> Path:
        """Return where the counts of a range are written."""
        return self.folder / f"{n:05d}"

    def __call__(self, n: int) -> int:
        """Count the n-th range: sums are taken in the order of the log. Returns how many keys it has."""
        keys, counts = count_rows(pl.concat(self._read(n)))
        with write_beside(self.path(n)) as folder:
            write_arrays(folder, {"keys": keys} | vars(counts))
        return len(keys)

    def _read(self, n: int) -> Iterator[pl.DataFrame]:
        bounds = [k * 2**64 // self.ranges for k in (n, n + 1) if k < self.ranges]
        for path in self.pieces:
            piece = read_frame(path)
            found = np.searchsorted(piece["key"].to_numpy(), np.array(bounds, dtype=np.uint64)).tolist()
            first, end = (*found, len(piece))[:2]
            yield piece[first:end]

    def join(self, folder: Path) -> None:
        """Write the counts of all ranges as one `PriorCounts`, in the memory of a range and of the periods."""
        folder.mkdir(parents=True, exist_ok=True)
        names = {"keys": "keys"} | {name: f"each.{name}" for name in ("periods", "shown", "positive")}
        for name, file in names.items():
            arrays = [read_array(self.path(n) / f"{name}.npy") for n in range(self.ranges)]
            with append_array(folder / f"{file}.npy", (sum(map(len, arrays)),), arrays[0].dtype) as append:
                for array in arrays:
                    append(array)
        self._join_offsets(folder / "each.offsets.npy")
        for name, array in vars(self._sum_keys()).items():
            write_array(folder / f"all.{name}.npy", array)

    def _counts(self) -> Iterator[CumulativeCounts]:
        """Map the counts of each range into memory."""
        for n in range(self.ranges):
            parts = ("offsets", "periods", "shown", "positive")
            yield CumulativeCounts(*(read_array(self.path(n) / f"{part}.npy") for part in parts))

    def _join_offsets(self, path: Path) -> None:
        keys = sum(len(counts.offsets) - 1 for counts in self._counts())
        before = 0
        with append_array(path, (keys + 1,), np.int64) as append:
            for counts in self._counts():
                append(before + counts.offsets[:-1])
                before += int(counts.offsets[-1])
            append(np.array([before]))

    def _sum_keys(self) -> CumulativeCounts:
        """Add up all keys, one after another, so that the ranges do not matter."""
        distinct = [np.unique(counts.periods) for counts in self._counts()]
        periods = np.unique(np.concatenate(distinct)).astype(np.int64)
        shown, positive = np.zeros(len(periods)), np.zeros(len(periods))
        for counts in self._counts():
            period = np.searchsorted(periods, counts.periods)
            np.add.at(shown, period, _increments(counts, counts.shown))
            np.add.at(positive, period, _increments(counts, counts.positive))
        offsets = np.array([0, len(periods)] if len(periods) else [0])
        return CumulativeCounts(offsets, periods, np.cumsum(shown), np.cumsum(positive))


def _increments(counts: CumulativeCounts, total: Doubles) -> Doubles:
    """Return by how much a cumulative count grew in each entry: (E,)."""
    grown = np.diff(total, prepend=0)
    first: Longs = counts.offsets[:-1]
    grown[first] = total[first]
    return grown


def count_priors(workspace: PackWorkspace, schema: Schema, partitions: int) -> None:
    """Count what the partitions left of each prior.

    Args:
        workspace: of the packing.
        schema: the features.
        partitions: of the log; keys are cut into as many ranges.
    """
    for n, _ in enumerate(schema.priors()):
        name = f"prior{n}"
        pieces = find_pieces(workspace.spill, name, partitions)
        count = CountKeys(pieces, partitions, workspace.spill / f"{name}.counts")
        workspace.run(f"prior {n}", count, range(partitions))
        count.join(prior_folder(workspace.packed, n))
