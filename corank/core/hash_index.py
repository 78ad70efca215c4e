"""Ids → their positions: whole numbers by a hash table of open addressing, 5 times as fast as search among a million.

Numbers that lie dense are looked up in a table of all numbers between them, twice as fast again.

Letters: N keys · M looked up.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Self

import numpy as np
import polars as pl

from corank.core.arrow import to_mask, to_numbers
from corank.core.types import Hashes, Ints, Longs, Mask

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, The Art of Computer Programming 3, 6.4
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST = np.uint64(31)
BLOCK = 32_768
"""Keys inserted at once: numpy holds the interpreter lock meanwhile, and another thread may be serving."""
FEW = 16_384
"""Up to so many texts, as a request may have, are looked up by dict or hash; more in a sorted column."""
MANY = 65_536
"""Up to so many texts are kept in a dict. Of more, hashes are: a million take a sixth of the memory, and less time."""


@dataclass(frozen=True)
class HashIndex:
    """N distinct whole numbers, each in a slot of a table that is at most a quarter full, so that few collide."""

    keys: Longs
    slots: Ints
    """The position of the key in each slot, −1 in a free slot."""

    @classmethod
    def build(cls, keys: Longs) -> Self:
        """Build the table. Keys that collide go to the next free slot, all of a block in rounds."""
        slots = np.full(_count_slots(len(keys)), -1, dtype=np.int32)
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
            position[other] = occupants = self.slots.take(slot[other])
            other = other[(occupants >= 0) & (self.keys.take(occupants, mode="clip") != wanted[other])]
        return position


@dataclass(frozen=True)
class DirectIndex:
    """N distinct whole numbers that lie so dense that a table has a place for every number between them."""

    before: np.int64
    """The number before the least key, modulo 2^64."""
    places: Ints
    """The position of each number from the least key to the greatest, −1 if it is none; −1 at both ends."""

    @classmethod
    def build(cls, keys: Longs) -> Self | None:
        """Build the table; None if it had more places than the slots of a `HashIndex`."""
        if not len(keys):
            return None
        first, last = int(keys.min()), int(keys.max())
        if last - first >= _count_slots(len(keys)):
            return None
        places = np.full(last - first + 3, -1, dtype=np.int32)
        places[keys - first + 1] = np.arange(len(keys), dtype=np.int32)
        return cls(np.subtract([np.int64(first)], 1)[0], places)

    def find(self, wanted: Longs) -> Longs:
        """Find the position of each key, −1 for one that is absent: (M,)."""
        # modulo 2^64 no other number comes to lie between the ends
        return self.places.take(wanted - self.before, mode="clip").astype(np.int64)


def build_index(keys: Longs) -> DirectIndex | HashIndex:
    """Index distinct whole numbers: directly where they lie dense, as numbers that a database counts up do."""
    return DirectIndex.build(keys) or HashIndex.build(keys)


def _count_slots(keys: int) -> int:
    """The number of slots for so many keys, a power of two."""
    return 1 << max(4, (4 * keys - 1).bit_length())


def _first(keys: Longs, slots: int) -> Longs:
    """Return the slot at which each key's search begins."""
    hashed: Hashes = keys.astype(np.int64, copy=False).view(np.uint64) * _GOLDEN
    hashed >>= np.uint64(64 - (slots.bit_length() - 1))
    return hashed.view(np.int64)


def null_mask(values: pl.Series) -> Mask:
    """Where values are null: (N,)."""
    return to_mask(values.to_arrow().is_null())


def fill_nulls(values: pl.Series) -> Longs:
    """Whole numbers, a 0 for each null. By way of Arrow, since a polars expression costs 0.1 ms."""
    filled: Any = to_numbers(values.to_arrow()) if values.null_count() else values.to_numpy()
    return filled  # type: ignore[no-any-return]


def _hash_texts(texts: Sequence[str | None]) -> Longs:
    """Python's hash of each text, the same within a process: (N,)."""
    return np.fromiter(map(hash, texts), np.int64, len(texts))


@dataclass(frozen=True)
class Keys:
    """Distinct values, ascending."""

    values: pl.Series

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def _lookup(self) -> DirectIndex | HashIndex:
        return build_index(self.values.to_numpy())

    @cached_property
    def _index_of(self) -> dict[Any, int]:
        return {value: n for n, value in enumerate(self.values.to_list())}

    @cached_property
    def _text_lookup(self) -> HashIndex:
        blocks = range(0, len(self), BLOCK)
        hashed = [_hash_texts(self.values.slice(first, BLOCK).to_list()) for first in blocks]
        return HashIndex.build(np.concatenate(hashed))

    def find(self, values: pl.Series) -> Longs:
        """Find the index of each value, -1 for one that is not here and for null: (N,). Types must agree."""
        if not len(self) or values.null_count() == len(values):
            return np.full(len(values), -1)
        if values.dtype != self.values.dtype:
            raise TypeError(f"{values.dtype} looked up among {self.values.dtype}")
        if values.dtype == pl.String:
            return self._search_texts(values) if len(values) > FEW else self.find_texts(values.to_list())
        index = self.find_numbers(fill_nulls(values))
        return np.where(null_mask(values), -1, index) if values.null_count() else index

    def find_texts(self, texts: Sequence[str | None]) -> Longs:
        """Find the index of each of a request's texts, if values are texts, as `find` does: (N,)."""
        if len(self) <= MANY:
            return np.fromiter(map(self._index_of.get, texts, repeat(-1)), np.int64, len(texts))
        index = self._text_lookup.find(_hash_texts(texts))
        # polars selects by an index in a third of the time that `gather` takes, which is an expression to it
        stored_texts = self.values[np.maximum(index, 0)].to_list()
        if stored_texts == texts:  # as for most requests, in a third of the time
            return index
        same = np.fromiter(map(operator.eq, stored_texts, texts), np.bool_, len(texts))
        positions = np.where(same, index, -1)
        if len(other := np.flatnonzero((index >= 0) & ~same)):  # texts whose hash is another's
            positions[other] = self._search_texts(
                pl.Series([texts[n] for n in other.tolist()], dtype=pl.String)
            )
        return positions

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
    x = x + _GOLDEN
    for shift, factor in _ROUNDS:
        x ^= x >> shift
        x *= factor
    x ^= x >> _LAST
    return x
