"""How often each item is a candidate of a split, by level: what a batch needs of the whole split.

Letters: I items · L levels · S items that are candidates.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from corank.core.arrays import read_array
from corank.core.types import Floats, Ints, Longs

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
