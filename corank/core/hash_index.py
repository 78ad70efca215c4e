"""Whole numbers → their positions, by a hash table of open addressing: 5 times as fast as search among a million.

Letters: N keys · M looked up.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from corank.core.types import Hashes, Ints, Longs

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, The Art of Computer Programming 3, 6.4

BLOCK = 32_768
"""Keys inserted at once: numpy holds the interpreter lock meanwhile, and another thread may be serving."""


@dataclass(frozen=True)
class HashIndex:
    """N distinct whole numbers, each in a slot of a table that is at most a quarter full, so that few collide."""

    keys: Longs
    slots: Ints
    """The position of the key in each slot, −1 in a free slot."""

    @classmethod
    def build(cls, keys: Longs) -> Self:
        """Build the table. Keys that collide go to the next free slot, all of a block in rounds."""
        slots = np.full(1 << max(4, (4 * len(keys) - 1).bit_length()), -1, dtype=np.int32)
        for first in range(0, len(keys), BLOCK):
            pending = np.arange(first, min(first + BLOCK, len(keys)), dtype=np.int32)
            slot = _first(keys[pending], len(slots))
            while len(pending):
                free = slots[slot] < 0
                slots[slot[free]] = pending[free]
                left = slots[slot] != pending
                slot, pending = (slot[left] + 1) & (len(slots) - 1), pending[left]
        return cls(keys, slots)

    def find(self, wanted: Longs) -> Longs:
        """Find the position of each key, −1 for one that is absent: (M,)."""
        if not len(self.keys):
            return np.full(len(wanted), -1)
        slot = _first(wanted, len(self.slots))
        position = self.slots.take(slot).astype(np.int64)
        other = np.flatnonzero((self.keys.take(position, mode="clip") != wanted) & (position >= 0))
        while len(other):
            slot[other] = (slot[other] + 1) & (len(self.slots) - 1)
            position[other] = found = self.slots.take(slot[other])
            other = other[(found >= 0) & (self.keys.take(found, mode="clip") != wanted[other])]
        return position


def _first(keys: Longs, slots: int) -> Longs:
    """Return the slot at which each key's search begins."""
    hashed: Hashes = keys.astype(np.int64, copy=False).view(np.uint64) * _GOLDEN
    return (hashed >> np.uint64(64 - (slots.bit_length() - 1))).astype(np.int64)
