"""Encoded rows: written by packing, gathered into batches, made from a request by the funnel.

Letters: N rows · k id features · m number features · V values of lists, or vectors · d width of vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Floats, Index, Ints, Longs, Numbers

NONE = -1
"""The position of the vector of a row that has none."""
BLOCK = 16_384
"""Vectors that are averaged at once."""

_FIRST = np.zeros(1, dtype=np.int64)
_FIRST.flags.writeable = False  # lists share it


def take_known(values: NDArray[Any], row: Index, missing: int = 0) -> NDArray[Any]:
    """Take the values of some rows, `missing` for row −1: (N,)."""
    if not len(values):
        return np.full(len(row), missing, dtype=values.dtype)
    taken = values.take(row)
    if row.min(initial=0) < 0:
        taken[row < 0] = missing
    return taken


def concat_ranges(start: Longs, length: Index) -> Longs:
    """Concatenate the ranges start[n], …, start[n] + length[n] − 1."""
    ends = np.cumsum(length, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    ranges: Longs = np.arange(total) + np.repeat(start - (ends - length), length)
    return ranges


def widen(halves: NDArray[Any]) -> Floats:
    """Convert finite float16 to float32, exactly, in a quarter of the time of `astype`; other types as numpy does."""
    if halves.dtype != np.float16:
        return halves.astype(np.float32)
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the sign, and the fifteen bits below it, now as a float32 has them
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)  # the difference of the exponents' biases
    return floats


@dataclass(frozen=True)
class Ragged:
    """A list for each row, as a view into shared values: row n holds `values[start[n] : start[n] + length[n]]`."""

    start: Longs  # (N,)
    length: Ints  # (N,)
    values: NDArray[Any]  # (V,) codes, hashes, times or rows of items
    weight: Floats | None = None  # (V,) of each value; None: all 1

    def take(self, index: Index) -> Self:
        """Select rows by position; their values stay shared."""
        return type(self)(self.start.take(index), self.length.take(index), self.values, self.weight)

    def first(self, most: int) -> Self:
        """Cut each list after its first `most` values."""
        return type(self)(self.start, np.minimum(self.length, most), self.values, self.weight)

    def flat(self) -> NDArray[Any]:
        """Return the values of all rows, one after another: (sum of lengths,)."""
        return self._flatten(self.values)

    def flat_weight(self) -> Floats | None:
        """Return the weights of `flat`, if there are any."""
        return None if self.weight is None else self._flatten(self.weight)

    def _flatten(self, values: NDArray[Any]) -> NDArray[Any]:
        if len(self.start) == 1:  # as in a request: a tenth of the time
            first = int(self.start[0])
            return values[first : first + int(self.length[0])].copy()
        return np.asarray(values[self.positions()])

    def compact(self) -> Self:
        """Copy the lists, without the shared values that none of them uses."""
        return self.from_lengths(self.length, self.flat(), self.flat_weight())

    def positions(self) -> Longs:
        """Return where the values of `flat` lie: (sum of lengths,). Raises IndexError if a list is longer than all."""
        if (longest := self.length.max(initial=0)) > len(self.values):
            raise IndexError(f"a list has {longest:,} values; there are {len(self.values):,}")
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
        start = _FIRST if len(length) == 1 else np.cumsum(length, dtype=np.int64) - length
        return cls(start, length.astype(np.int32), values, weight)

    @classmethod
    def single(cls, values: NDArray[Any], weight: Floats | None = None) -> Self:
        """Make one list, as a request has it."""
        return cls(_FIRST, np.array([len(values)], dtype=np.int32), values, weight)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> Self:
        """Make lists of Python lists: `Ragged.from_lists([[1, 2], []])`."""
        length = np.array([len(values) for values in lists], dtype=np.int32)
        flat = [value for values in lists for value in values]
        return cls.from_lengths(length, np.array(flat, dtype=np.int32))


@dataclass(frozen=True)
class Vectors:
    """A vector for each row, or none: row n has `values[row[n]]`, none if `row[n]` is −1.

    Rows may share a vector: the versions of an item, the requests of a user. Encoded vectors are float16.
    """

    row: Ints  # (N,)
    values: Numbers  # (V, d)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def width(self) -> int:
        """d."""
        return int(self.values.shape[1])

    @classmethod
    def of(cls, values: Numbers) -> Self:
        """Make rows of a matrix (N, d); a row of zeros has no vector."""
        some = values.any(axis=1)
        row = np.where(some, np.cumsum(some) - 1, NONE).astype(np.int32)
        return cls(row, values if some.all() else values[some])

    @classmethod
    def none(cls, count: int, width: int) -> Self:
        """Make `count` rows without a vector."""
        return cls(np.full(count, NONE, dtype=np.int32), np.empty((0, width), dtype=np.float16))

    def take(self, index: Index) -> Self:
        """Select rows by position; the vectors stay shared."""
        return type(self)(self.row.take(index), self.values)

    def compact(self) -> Self:
        """Copy the vectors that some row has, each once."""
        known = self.row >= 0
        used, position = np.unique(self.row[known], return_inverse=True)
        row = np.full(len(self.row), NONE, dtype=np.int32)
        row[known] = position
        return type(self)(
            row, self.values if len(used) == len(self.values) else self.values.take(used, axis=0)
        )

    def concat(self, *others: Self) -> Self:
        """Append other rows. Vectors that all of them share stay shared."""
        parts = (self, *others)
        if all(part.values is self.values for part in others):
            return type(self)(np.concatenate([part.row for part in parts]), self.values)
        first = np.cumsum([0, *(len(part.values) for part in parts)])
        rows = [
            np.where(part.row < 0, NONE, part.row + begin).astype(np.int32)
            for part, begin in zip(parts, first, strict=False)
        ]
        return type(self)(np.concatenate(rows), np.concatenate([part.values for part in parts]))

    def with_rows(self, at: Index, new: Self) -> Self:
        """Replace the vectors of some rows by new ones, in order."""
        both = concat_vectors((self, new))
        row = both.row[: len(self)].copy()
        row[at] = both.row[len(self) :]
        return type(self)(row, both.values)

    def share_repeats(self) -> Self:
        """Let each row that repeats the vector of the row before share it: versions of one item often do."""
        same = (self.row[1:] >= 0) & (self.row[:-1] >= 0)
        at = np.flatnonzero(same)
        same[at] = (self.values[self.row[at]] == self.values[self.row[at + 1]]).all(axis=1)
        begins = np.append(True, ~same)[: len(self.row)]
        return type(self)(self.row[begins][np.cumsum(begins) - 1], self.values).compact()

    def dense(self) -> Floats:
        """Return float32 vectors, of zeros where there is none: (N, d)."""
        return widen(self._gather(self.width))

    def with_missing(self) -> NDArray[np.float16]:
        """Return float16 vectors, of zeros where there is none, and a column that is 1 there: (N, d + 1)."""
        vectors = self._gather(self.width + 1)
        vectors[:, -1] = self.row < 0
        return vectors

    def _gather(self, width: int) -> NDArray[np.float16]:
        """The vectors in the first of `width` columns."""
        vectors = np.empty((len(self), width), dtype=self.values.dtype)
        if len(self.values):
            vectors[:, : self.width] = self.values.take(self.row, axis=0, mode="clip")
        if len(none := np.flatnonzero(self.row < 0)):
            vectors[none] = 0
        return vectors

    def means(self, index: Index, length: Index, weight: Floats | None = None) -> Self:
        """Average the vectors of groups of rows; those without one are left out.

        Args:
            index: positions of the rows, group by group; −1 for no row.
            length: rows of each group: (G,).
            weight: what each row counts; all alike unless given.

        Returns:
            G rows of float64; one whose rows have no vector has none.
        """
        ends = np.append(0, np.cumsum(length, dtype=np.int64))
        blocks, begin = [type(self)(np.empty(0, dtype=np.int32), np.empty((0, self.width)))], 0
        while begin < len(length):
            # as many groups as have BLOCK rows, one at least
            end = max(begin + 1, int(np.searchsorted(ends, ends[begin] + BLOCK, side="right")) - 1)
            rows = slice(ends[begin], ends[end])
            blocks.append(
                self._means(index[rows], length[begin:end], None if weight is None else weight[rows])
            )
            begin = end
        return blocks[0].concat(*blocks[1:])

    def _means(self, index: Index, length: Index, weight: Floats | None) -> Self:
        """The means of groups that are few enough to be summed at once."""
        row = np.full(len(index), NONE, dtype=np.int32)
        row[index >= 0] = self.row[index[index >= 0]]
        known = np.flatnonzero(row >= 0)
        group = np.repeat(np.arange(len(length)), length)[known]
        counts = np.ones(len(known)) if weight is None else weight[known].astype(np.float64)
        total = np.bincount(group, counts, len(length))
        have, first = np.unique(group, return_index=True)
        weighted = widen(self.values[row[known]]).astype(np.float64) * counts[:, None]
        at = np.full(len(length), NONE, dtype=np.int32)
        at[have] = np.arange(len(have))
        return type(self)(
            at, np.add.reduceat(weighted, first, axis=0) / total[have, None] if len(have) else weighted
        )


def concat_vectors(parts: Sequence[Vectors]) -> Vectors:
    """Join the rows of several parts; vectors that no row has are dropped unless all parts share them."""
    shared = all(part.values is parts[0].values for part in parts)
    first, *others = parts if shared else [part.compact() for part in parts]
    return first.concat(*others)


def _take(columns: NDArray[Any], index: Index) -> NDArray[Any]:
    """Select rows by position, ten times as fast as columns[index]; of no columns that takes a fifth of the time."""
    return columns.take(index, axis=0) if columns.shape[1] else columns[index]


@dataclass(frozen=True)
class Rows:
    """N encoded rows of one placement, features in the order of `Schema.placed`."""

    ids: Ints  # (N, k)
    numbers: Floats  # (N, m)
    lists: tuple[Ragged, ...]
    vectors: tuple[Vectors, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Index) -> Self:
        """Select rows by position."""
        ids, numbers = _take(self.ids, index), _take(self.numbers, index)
        lists = tuple(values.take(index) for values in self.lists)
        return type(self)(ids, numbers, lists, tuple(values.take(index) for values in self.vectors))

    def compact(self) -> Self:
        """Copy lists and vectors, without the shared values that no row uses."""
        lists = tuple(values.compact() for values in self.lists)
        return type(self)(self.ids, self.numbers, lists, tuple(values.compact() for values in self.vectors))

    def concat(self, other: Self) -> Self:
        """Append other rows."""
        lists = (one.concat(more) for one, more in zip(self.lists, other.lists, strict=True))
        vectors = (one.concat(more) for one, more in zip(self.vectors, other.vectors, strict=True))
        ids, numbers = np.concatenate((self.ids, other.ids)), np.concatenate((self.numbers, other.numbers))
        return type(self)(ids, numbers, tuple(lists), tuple(vectors))

    def with_rows(self, at: Index, new: Self) -> Self:
        """Replace the rows at some positions by new ones, in order."""
        ids, numbers = self.ids.copy(), self.numbers.copy()
        ids[at], numbers[at] = new.ids, new.numbers
        lists = (old.with_rows(at, fresh) for old, fresh in zip(self.lists, new.lists, strict=True))
        vectors = (old.with_rows(at, fresh) for old, fresh in zip(self.vectors, new.vectors, strict=True))
        return type(self)(ids, numbers, tuple(lists), tuple(vectors))
