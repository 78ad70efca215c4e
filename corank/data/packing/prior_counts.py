"""The counts of priors, added up one range of keys at a time, after those of an earlier packing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from corank.core.arrays import append_array, read_array, read_frame, write_array, write_arrays, write_frame
from corank.core.time import DAY, MILLISECOND, NEVER
from corank.data.packed.dataset import prior_folder
from corank.data.packing.earlier_pack import PackStart
from corank.data.packing.sources import PackSources
from corank.data.packing.workspace import PackWorkspace, find_pieces, write_beside
from corank.engine.base import SentByFields
from corank.features.priors import (
    ALL_TIME,
    SMOOTHING,
    Memory,
    PriorCounts,
    add_up,
    add_up_one,
    sum_of_all,
    sum_periods,
)
from corank.features.schema import Schema
from corank.features.training_values import list_keep_days


@dataclass(frozen=True)
class EarlierCounts(SentByFields):
    """The counts of one prior before the period from which rows are counted again."""

    folder: Path
    """Of the counts."""
    period: int
    """ms UTC."""
    memory: Memory = ALL_TIME
    seen_from: int = NEVER
    """Keys whose last period is earlier, ms UTC, are forgotten."""

    @classmethod
    def find(cls, start: PackStart, schema: Schema, until: int) -> Mapping[str, "EarlierCounts"]:
        """Find the counts that are continued, by prior.

        Drops keys that were not seen for the longest `keep_days` of the features that make them up.

        Args:
            start: names the earlier packing.
            schema: the features.
            until: when training ends, ms UTC.
        """
        counts = {}
        for name, period in start.periods.items():
            assert start.earlier is not None
            number = list(start.earlier.schema.priors()).index(name)
            by = [schema.features[operand] for operand in schema.derived()[name].operands]
            days = [day for day in list_keep_days(by) if day is not None]
            seen = until - max(days) * (DAY // MILLISECOND) if days else NEVER
            folder, memory = prior_folder(start.earlier.folder, number), schema.priors()[name].memory
            counts[name] = cls(folder, period, memory, seen)
        return counts

    @cached_property
    def held(self) -> PriorCounts:
        """All counts of the earlier packing."""
        return PriorCounts.load(self.folder)

    def weights(self, first: int, end: int) -> pl.DataFrame:
        """Return the weights of a range of keys, like `CumulativeCounts.weights`."""
        counts = self.held.select_range(first, end).as_of(self.period, self.memory, dated=True)
        last = counts.counts.periods[counts.counts.offsets[1:] - 1]
        kept = np.flatnonzero(last >= self.seen_from)
        return counts.counts.select(kept).weights(counts.keys[kept])

    def weights_of_all(self) -> pl.DataFrame:
        """Return the weights of all keys together."""
        return self.held.all.as_of(self.period, self.memory).weights(np.zeros(1, dtype=np.uint64))


_PIECE = {"key": pl.UInt64, "period": pl.Int64, "shown": pl.Float64, "positive": pl.Float64}
"""The columns that are counted."""
OF_ALL = "all.arrow"
"""The total weights of all keys of a range, by period."""


@dataclass(frozen=True)
class CountKeys:
    """Counts a range of the keys of a prior; its number is the task. Keys are hashes: ranges of one width are alike."""

    pieces: Sequence[Path]
    """Frames of `key`, ascending and above 0, `period`, `shown`, `positive`, and `row` of the log."""
    ranges: int
    folder: Path
    """Receives a folder for each range."""
    memory: Memory = ALL_TIME
    """How long a period counts."""
    earlier: EarlierCounts | None = None
    """The counts of an earlier packing."""

    def path(self, n: int) -> Path:
        """Return where the counts of a range are written."""
        return self.folder / f"{n:05d}"

    def __call__(self, n: int) -> int:
        """Count the n-th range. Returns how many keys it has."""
        new = weights = sum_periods(pl.concat(self._read(n)))
        if self.earlier is not None:
            weights = pl.concat([self.earlier.weights(*self._bounds(n)), new]).sort("key", "period")
        keys, counts = add_up(weights, self.memory)
        with write_beside(self.path(n)) as folder:
            write_arrays(folder, {"keys": keys} | vars(counts))
            write_frame(folder / OF_ALL, sum_of_all(new))
        return len(keys)

    def _bounds(self, n: int) -> tuple[int, int]:
        return n * 2**64 // self.ranges, (n + 1) * 2**64 // self.ranges

    def _read(self, n: int) -> Iterator[pl.DataFrame]:
        yield pl.DataFrame(schema=_PIECE)
        bounds = [bound for bound in self._bounds(n) if bound < 2**64]
        for path in self.pieces:
            piece = read_frame(path)
            offsets = np.searchsorted(piece["key"].to_numpy(), np.array(bounds, dtype=np.uint64)).tolist()
            first, end = (*offsets, len(piece))[:2]
            yield piece[first:end].select(*_PIECE)

    def join(self, folder: Path) -> None:
        """Write the counts of all ranges as one `PriorCounts`, in the memory of a range and of the periods."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("keys", "periods", "shown", "positive", "offsets"):
            arrays = [read_array(self.path(n) / f"{name}.npy") for n in range(self.ranges)]
            path, begin = folder / f"{name if name == 'keys' else f'each.{name}'}.npy", 0
            joined = name == "offsets"  # which begin anew in each range
            count = sum(map(len, arrays)) - joined * (self.ranges - 1)
            with append_array(path, (count,), arrays[0].dtype) as append:
                for array in arrays:
                    append(array[:-1] + begin if joined else array)
                    begin += int(array[-1]) if joined else 0
                if joined:
                    append(np.array([begin]))
        new = sum_of_all(pl.concat(read_frame(self.path(n) / OF_ALL) for n in range(self.ranges)))
        of_all = new if self.earlier is None else pl.concat([self.earlier.weights_of_all(), new])
        for name, array in vars(add_up_one(of_all, self.memory)).items():
            write_array(folder / f"all.{name}.npy", array)


def count_priors(
    workspace: PackWorkspace, partitions: int, ranges: Mapping[str, int], inputs: PackSources
) -> None:
    """Count what the partitions, or the ranges of tables of events, left of each prior.

    Args:
        workspace: of the packing.
        partitions: of the log; keys are cut into as many ranges.
        ranges: of the rows of each table of events that some prior counts.
        inputs: the tables, and the packing to continue from.
    """
    schema, end = inputs.schema, inputs.data.training_end()
    earlier = EarlierCounts.find(inputs.start, schema, inputs.until)
    for n, (feature, prior) in enumerate(schema.priors().items()):
        name = f"prior{n}"
        pieces = find_pieces(workspace.spill, name, ranges[prior.events] if prior.events else partitions)
        before = earlier.get(feature)
        count = CountKeys(pieces, partitions, workspace.spill / f"{name}.counts", prior.memory, before)
        workspace.run(f"prior {n}", count, range(partitions))
        folder = prior_folder(workspace.packed, n)
        count.join(folder)
        if prior.smoothing == "auto" and before is not None:
            write_array(folder / SMOOTHING, np.array([before.held.fitted]))
        elif prior.smoothing == "auto":
            fitted = PriorCounts.load(folder).fit_smoothing(end, prior.memory)
            write_array(folder / SMOOTHING, np.array([fitted.fitted]))
            workspace.report(f"{feature}: smoothing {fitted.fitted:g}")
