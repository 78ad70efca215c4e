"""Ids → their positions: whole numbers by a hash table of open addressing, 5 times as fast as search among a million.

Letters: N keys · M looked up.
"""

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl

from corank.core.types import Hashes, Ints, Longs, Mask

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, The Art of Computer Programming 3, 6.4

BLOCK = 32_768
"""Keys inserted at once: numpy holds the interpreter lock meanwhile, and another thread may be serving."""
FEW = 1024
"""Up to so many texts are looked up by dict or hash, which takes microseconds; more in a sorted column."""
MANY = 65_536
"""Up to so many texts are held in a dict. Of more, hashes are: a million take a sixth of the memory, and less time."""


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


def null_mask(values: pl.Series) -> Mask:
    """Where values are null: (N,)."""
    mask: Mask = values.to_arrow().is_null().to_numpy(zero_copy_only=False)
    return mask


def fill_nulls(values: pl.Series) -> Longs:
    """Whole numbers, a 0 for each null. By way of Arrow, since a polars expression costs 0.1 ms."""
    filled: Longs = (values.to_arrow().fill_null(0) if values.null_count() else values).to_numpy()
    return filled


def _hash_texts(values: pl.Series) -> Longs:
    """Python's hash of each text, the same within a process: (N,)."""
    hashed = np.empty(len(values), dtype=np.int64)
    for first in range(0, len(values), BLOCK):
        part = values.slice(first, BLOCK)
        hashed[first : first + BLOCK] = np.fromiter(map(hash, part.to_list()), np.int64, len(part))
    return hashed


@dataclass(frozen=True)
class Keys:
    """Distinct values, ascending."""

    values: pl.Series

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _lookup(self) -> HashIndex:
        return HashIndex.build(self.values.to_numpy())

    @cached_property
    def _index_of(self) -> dict[Any, int]:
        return {value: n for n, value in enumerate(self.values.to_list())}

    @cached_property
    def _text_lookup(self) -> HashIndex:
        return HashIndex.build(_hash_texts(self.values))

    def find(self, values: pl.Series) -> Longs:
        """Find the index of each value, -1 for one that is not here and for null: (N,). Types must agree."""
        if not len(self) or values.null_count() == len(values):
            return np.full(len(values), -1)
        if values.dtype != self.values.dtype:
            raise TypeError(f"{values.dtype} looked up among {self.values.dtype}")
        if values.dtype == pl.String:
            return self._find_texts(values)
        index = self.find_numbers(fill_nulls(values))
        return np.where(null_mask(values), -1, index) if values.null_count() else index

    def _find_texts(self, values: pl.Series) -> Longs:
        if len(values) > FEW:
            return self._search_texts(values)
        if len(self) <= MANY:
            indices = (self._index_of.get(value, -1) for value in values.to_list())
            return np.fromiter(indices, np.int64, len(values))
        index = self._text_lookup.find(_hash_texts(values))
        held = self.values.gather(np.maximum(index, 0)).to_list()
        same = np.fromiter(map(operator.eq, held, values.to_list()), np.bool_, len(values))
        found = np.where(same, index, -1)
        if len(other := np.flatnonzero((index >= 0) & ~same)):  # texts whose hash is another's
            found[other] = self._search_texts(values.gather(other))
        return found

    def _search_texts(self, values: pl.Series) -> Longs:
        index = self.values.search_sorted(values.fill_null("")).to_numpy().astype(np.int64)
        index = np.minimum(index, len(self) - 1)
        same = (self.values.gather(index) == values).fill_null(False).to_numpy()
        return np.where(same, index, -1)

    def find_numbers(self, wanted: Longs) -> Longs:
        """Find the index of whole numbers, as `find` does: (N,)."""
        return self._lookup.find(wanted)


def splitmix64(x: Hashes) -> Hashes:
    """Scramble 64 bits: SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom …, OOPSLA 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
