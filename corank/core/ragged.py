"""Encoded rows and lists of values: written by packing, gathered into batches, made from a request by the funnel.

Letters: N rows · k id features · m number features · V list values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Floats, Index, Ints, Longs


def concat_ranges(start: Longs, length: Index) -> Longs:
    """Concatenate the ranges start[n], …, start[n] + length[n] − 1."""
    ends = np.cumsum(length, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    ranges: Longs = np.arange(total) + np.repeat(start - (ends - length), length)
    return ranges


@dataclass(frozen=True)
class Ragged:
    """A list for each row, as a view into shared values: row n holds `values[start[n] : start[n] + length[n]]`."""

    start: Longs  # (N,)
    length: Ints  # (N,)
    values: NDArray[Any]  # (V,) codes, hashes, times or rows of items
    weight: Floats | None = None  # (V,) of each value; None: all 1

    def take(self, index: Index) -> Self:
        """Select rows by position; their values stay shared."""
        return type(self)(self.start[index], self.length[index], self.values, self.weight)

    def first(self, most: int) -> Self:
        """Cut each list after its first `most` values."""
        return type(self)(self.start, np.minimum(self.length, most), self.values, self.weight)

    def flat(self) -> NDArray[Any]:
        """Return the values of all rows, one after another: (sum of lengths,)."""
        return np.asarray(self.values[self.positions()])

    def flat_weight(self) -> Floats | None:
        """Return the weights of `flat`, if there are any."""
        return None if self.weight is None else np.asarray(self.weight[self.positions()])

    def compact(self) -> Self:
        """Copy the lists, without the shared values that none of them uses."""
        return self.from_lengths(self.length, self.flat(), self.flat_weight())

    def positions(self) -> Longs:
        """Return the positions of the values of `flat` among the shared ones: (sum of lengths,)."""
        return concat_ranges(self.start, self.length)

    def with_rows(self, at: Index, new: Self) -> Self:
        """Replace the lists at some positions by new ones, in order; weights are dropped."""
        length, flat = self.length.copy(), self.flat()
        start = np.cumsum(length, dtype=np.int64) - length
        start[at], length[at] = new.start + len(flat), new.length
        return type(self)(start, length, np.concatenate((flat, new.values)))

    def concat(self, *others: Self) -> Self:
        """Append other lists; weights are dropped. Values that all of them share stay shared."""
        parts = (self, *others)
        length = np.concatenate([part.length for part in parts])
        if all(part.values is self.values for part in others):
            return type(self)(np.concatenate([part.start for part in parts]), length, self.values)
        begins = np.cumsum([0, *(len(part.values) for part in parts)])
        start = np.concatenate([part.start + begin for part, begin in zip(parts, begins, strict=False)])
        return type(self)(start, length, np.concatenate([part.values for part in parts]))

    def row_of(self) -> Longs:
        """Return the row of each value of `flat`: (sum of lengths,)."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @classmethod
    def from_lengths(cls, length: Index, values: NDArray[Any], weight: Floats | None = None) -> Self:
        """Make lists of values that lie one after another."""
        start = np.cumsum(length, dtype=np.int64) - length
        return cls(start, length.astype(np.int32), values, weight)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> Self:
        """Make lists of Python lists.

        Example:
            >>> Ragged.from_lists([[1, 2], []]).length.tolist()
            [2, 0]
        """
        length = np.array([len(values) for values in lists], dtype=np.int32)
        flat = [value for values in lists for value in values]
        return cls.from_lengths(length, np.array(flat, dtype=np.int32))


@dataclass(frozen=True)
class Rows:
    """N encoded rows of one placement, features in the order of `Schema.placed`."""

    ids: Ints  # (N, k)
    numbers: Floats  # (N, m)
    lists: tuple[Ragged, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Index) -> Self:
        """Select rows by position."""
        # ten times as fast as ids[index]
        ids, numbers = self.ids.take(index, axis=0), self.numbers.take(index, axis=0)
        return type(self)(ids, numbers, tuple(r.take(index) for r in self.lists))

    def compact(self) -> Self:
        """Copy the lists, without the shared values that none of them uses."""
        return type(self)(self.ids, self.numbers, tuple(values.compact() for values in self.lists))

    def concat(self, other: Self) -> Self:
        """Append other rows."""
        lists = (one.concat(more) for one, more in zip(self.lists, other.lists, strict=True))
        ids, numbers = np.concatenate((self.ids, other.ids)), np.concatenate((self.numbers, other.numbers))
        return type(self)(ids, numbers, tuple(lists))

    def with_rows(self, at: Index, new: Self) -> Self:
        """Replace the rows at some positions by new ones, in order."""
        ids, numbers = self.ids.copy(), self.numbers.copy()
        ids[at], numbers[at] = new.ids, new.numbers
        lists = (old.with_rows(at, fresh) for old, fresh in zip(self.lists, new.lists, strict=True))
        return type(self)(ids, numbers, tuple(lists))
