"""Encoded rows: what packing writes, batches gather and the funnel makes of a request.

Letters: N rows · k id features · m number features · V list values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ragged:
    """A list a row, as views into shared values: row n holds `values[start[n] : start[n] + length[n]]`."""

    start: Longs  # (N,)
    length: Ints  # (N,)
    values: Ints  # (V,)

    def take(self, index: NDArray[np.integer]) -> Self:
        return type(self)(self.start[index], self.length[index], self.values)

    def flat(self) -> Ints:
        """The values of all rows, one after another: (sum of lengths,)."""
        ends = np.cumsum(self.length, dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        position = np.arange(total) + np.repeat(self.start - (ends - self.length), self.length)
        return np.asarray(self.values[position], dtype=np.int32)

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Self:
        length = np.array([len(values) for values in lists], dtype=np.int32)
        start = np.cumsum(length, dtype=np.int64) - length
        flat = [value for values in lists for value in values]
        return cls(start, length, np.array(flat, dtype=np.int32))


@dataclass(frozen=True)
class Rows:
    """N encoded rows of one placement, features in the order of `Schema.placed`."""

    ids: Ints  # (N, k)
    numbers: Floats  # (N, m)
    lists: tuple[Ragged, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[np.integer]) -> Self:
        return type(self)(self.ids[index], self.numbers[index], tuple(r.take(index) for r in self.lists))

    def replaced(self, at: NDArray[np.integer], new: Self) -> Self:
        """These rows with those at `at` replaced by `new`, in order."""
        ids, numbers = self.ids.copy(), self.numbers.copy()
        ids[at], numbers[at] = new.ids, new.numbers
        lists = []
        for old, fresh in zip(self.lists, new.lists, strict=True):
            start, length = old.start.copy(), old.length.copy()
            flat = old.flat()
            ends = np.cumsum(length, dtype=np.int64)
            start[:] = ends - length
            start[at], length[at] = fresh.start + len(flat), fresh.length
            lists.append(Ragged(start, length, np.concatenate((flat, fresh.values))))
        return type(self)(ids, numbers, tuple(lists))
