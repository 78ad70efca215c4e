"""What a batch needs of a whole split: the contents of each request, and how often each item is a candidate, by level.

Letters: R requests · I items · L levels · S items that are candidates.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.core.arrays import read_array
from corank.core.types import Floats, Hashes, Ints, Longs, Mask

FILE = "requests.npy"
"""The file next to a split's counts of items."""
LAST_BIT = 63
"""Levels and labels beyond share the last bit: then a request may seem to hold what it does not."""


def mark_requests(
    request_start: Longs, level: NDArray[np.uint8], levels: int, labels: Sequence[NDArray[np.int8]]
) -> Hashes:
    """Mark what R requests hold: a bit a level, then a bit a label that is known of a candidate: (R,).

    Args:
        request_start: where each request's candidates begin, and the end: (R + 1,).
        level: of each candidate.
        levels: their number.
        labels: each label of each candidate, −1 where unknown.
    """
    bits = np.left_shift(np.uint64(1), np.minimum(level, LAST_BIT).astype(np.uint64))
    for n, label in enumerate(labels):
        bits |= (label >= 0).astype(np.uint64) << np.uint64(min(levels + n, LAST_BIT))
    return np.bitwise_or.reduceat(bits, request_start[:-1]) if len(bits) else np.empty(0, np.uint64)


@dataclass(frozen=True)
class RequestContents:
    """The marks of a split's requests, memory-mapped."""

    bits: Hashes
    """As `mark_requests` makes them, in the order of the shards: (R,)."""
    levels: int
    labels: Sequence[str]

    @classmethod
    def open(cls, folder: Path, levels: int, labels: Sequence[str], requests: int) -> "RequestContents":
        """Map the marks into memory. Raises DataError if they are damaged or of another size."""
        return cls(read_array(folder / FILE, np.uint64, (requests,)), levels, labels)

    def select(self, levels: Collection[int], labels: Collection[str]) -> Mask:
        """Mark the requests with a candidate of some `levels`, or, with `labels`, one of these known: (R,)."""
        numbers = [self.levels + self.labels.index(label) for label in labels] or list(levels)
        mask = sum({1 << min(n, LAST_BIT) for n in numbers})
        marks: Mask = (self.bits & np.uint64(mask)) != 0
        return marks


ORDINALS = Path("items") / "ordinals.npy"
"""The item of each item row, as an index into the distinct items."""
COUNTS = "counts"
"""The folder of packed data that has a folder of counts for each split."""


@dataclass(frozen=True)
class ItemCounts:
    """The candidates of each item in a split, memory-mapped.

    Example:
        packed.item_counts["train"].shares(ordinals, {0, 1})
    """

    candidates: tuple[Longs, ...]
    """By level, of each item: (I,)."""
    levels: Longs
    """The sums over all items: (L,)."""
    seen: Ints
    """The items that are a candidate at all, ascending: (S,)."""

    @classmethod
    def open(cls, folder: Path, items: int, levels: int) -> Self:
        """Memory-map the counts that packing wrote. Raises DataError if it is damaged or of another size."""
        return cls(
            tuple(read_array(folder / f"level{n}.npy", np.int64, (items,)) for n in range(levels)),
            read_array(folder / "levels.npy", np.int64, (levels,)),
            read_array(folder / "seen.npy", np.int32, (None,)),
        )

    def shares(self, items: Ints, levels: Collection[int] | None = None) -> Floats:
        """Return the share of some items among all candidates, or those of some levels."""
        read = [n for n in range(len(self.levels)) if levels is None or n in levels]
        candidates = sum((self.candidates[n][items] for n in read), np.zeros(len(items), dtype=np.int64))
        shares: Floats = (candidates / max(1, int(self.levels[read].sum()))).astype(np.float32)
        return shares
