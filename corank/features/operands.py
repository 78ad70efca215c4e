"""Operands of derived features: of ids a hash of the value itself, of numbers the number itself.

Not codes: a brand that no vocabulary knows yet is still the brand in the user's history. Vectors are taken from the
encoded rows, which hold them as they are. Derived features are computed from the operands of one side, or of pairs of a
query and an item.

Letters: N rows of the query, or of items; or N results · A rows of the side that has the list or the vector.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.arrays import read_array, read_ragged, write_array, write_ragged
from corank.core.hash_index import splitmix64
from corank.core.ragged import Ragged, Rows, Vectors, take_known
from corank.core.types import Doubles, Hashes, Longs
from corank.features.encoding import Placement, RowFeatures, mix_hashes
from corank.features.history import EventAge


@dataclass(frozen=True)
class OperandNames:
    """The features of one placement whose raw values derived features take, by what they take of them; not vectors."""

    keys: tuple[str, ...]
    lists: tuple[str, ...]
    numbers: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names; a feature of which both keys and numbers are taken is there twice."""
        return (*self.keys, *self.lists, *self.numbers)

    def among(self, names: Collection[str]) -> Self:
        """Select those of some features."""
        parts = (self.keys, self.lists, self.numbers)
        return type(self)(*(tuple(name for name in part if name in names) for part in parts))

    def __bool__(self) -> bool:
        return bool(self.names)


@dataclass(frozen=True)
class Operands:
    """The operands of N rows, by feature; those of a history go by `HISTORY` or `HISTORY.FEATURE`."""

    count: int
    keys: dict[str, Hashes]
    """(N,), 0 where missing."""
    lists: dict[str, Ragged]
    """Of hashes."""
    numbers: dict[str, Doubles]
    """(N,), NaN where missing."""
    vectors: dict[str, Vectors] = field(default_factory=dict)
    """(N), while derived features are computed; not saved, since encoded rows have them."""
    ages: dict[tuple[str, EventAge], Ragged] = field(default_factory=dict)
    """How old the event of each value of a list is, while derived features are computed; not saved."""

    def take(self, index: NDArray[np.integer]) -> Self:
        """Select rows by index."""
        parts = (self.keys, self.lists, self.numbers, self.vectors, self.ages)
        taken: list[Any] = [{name: values.take(index) for name, values in part.items()} for part in parts]
        return type(self)(len(index), *taken)

    def among(self, names: Collection[str]) -> Self:
        """The operands of some features alone."""
        parts = (self.keys, self.lists, self.numbers, self.vectors)
        some: list[Any] = [{n: values for n, values in part.items() if n in names} for part in parts]
        return type(self)(self.count, *some)

    def compact(self) -> Self:
        """Copy the lists so that they hold no value that no row refers to."""
        lists = {name: values.compact() for name, values in self.lists.items()}
        return type(self)(self.count, self.keys, lists, self.numbers)

    def merge(self, other: Self) -> Self:
        """Add other operands of the same rows."""
        parts = self.keys | other.keys, self.lists | other.lists, self.numbers | other.numbers
        return type(self)(self.count, *parts)

    def concat(self, *others: Self) -> Self:
        """The operands of these rows, then of others."""
        parts = (self, *others)
        return type(self)(
            sum(part.count for part in parts),
            {name: np.concatenate([part.keys[name] for part in parts]) for name in self.keys},
            {n: lists.concat(*(part.lists[n] for part in others)) for n, lists in self.lists.items()},
            {name: np.concatenate([part.numbers[name] for part in parts]) for name in self.numbers},
        )

    def reorder(self, wanted: OperandNames) -> Self:
        """Put them in the order in which they are saved."""
        return type(self)(
            self.count,
            {name: self.keys[name] for name in wanted.keys},
            {name: self.lists[name] for name in wanted.lists},
            {name: self.numbers[name] for name in wanted.numbers},
        )

    def with_rows(self, at: NDArray[np.integer], new: Self) -> Self:
        """These rows with those at `at` replaced by `new`, in order."""

        def put(old: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
            out = old.copy()
            out[at] = fresh
            return out

        return type(self)(
            self.count,
            {name: put(keys, new.keys[name]) for name, keys in self.keys.items()},
            {name: lists.with_rows(at, new.lists[name]) for name, lists in self.lists.items()},
            {name: put(values, new.numbers[name]) for name, values in self.numbers.items()},
        )

    def with_lists(self, lists: dict[str, Ragged]) -> Self:
        """Add lists, or replace those of the same name."""
        return replace(self, lists=self.lists | lists)

    def with_ages(self, ages: dict[tuple[str, EventAge], Ragged]) -> Self:
        """Add the ages of events."""
        return replace(self, ages=ages)

    def with_vectors(self, features: RowFeatures, rows: Rows) -> Self:
        """Add the vectors of the same rows, encoded."""
        return self.with_named_vectors(dict(zip(features.vectors, rows.vectors, strict=True)))

    def with_named_vectors(self, vectors: Mapping[str, Vectors]) -> Self:
        """Add vectors by name."""
        return replace(self, vectors={**self.vectors, **vectors})

    def save(self, folder: Path) -> None:
        """Write one array per operand, numbered in order."""
        folder.mkdir(parents=True, exist_ok=True)
        for n, keys in enumerate(self.keys.values()):
            write_array(folder / f"key{n}.npy", keys)
        for n, lists in enumerate(self.lists.values()):
            write_ragged(folder, n, lists)
        for n, values in enumerate(self.numbers.values()):
            write_array(folder / f"number{n}.npy", values)

    @classmethod
    def load(cls, folder: Path, wanted: OperandNames, count: int) -> Self:
        """Map what `save` wrote into memory. Raises DataError if a part is missing or damaged."""
        return cls(
            count,
            {
                name: read_array(folder / f"key{n}.npy", np.uint64, (count,))
                for n, name in enumerate(wanted.keys)
            },
            {
                name: read_ragged(folder, n, dtype=np.uint64, count=count)
                for n, name in enumerate(wanted.lists)
            },
            {
                name: read_array(folder / f"number{n}.npy", np.float64, (count,))
                for n, name in enumerate(wanted.numbers)
            },
        )


def select_lists(lists: Ragged, row: NDArray[np.integer]) -> Ragged:
    """Select the lists of some rows; that of row −1 is empty."""
    return Ragged(take_known(lists.start, row), take_known(lists.length, row), lists.values)


def flatten_lists(outer: Ragged, inner: Ragged) -> Ragged:
    """Flatten lists of lists by one level: `inner` has a list for every value of `outer.flat()`."""
    weight, flat = outer.flat_weight(), inner.flat()
    if len(outer.length) == 1:  # of a request
        length = np.array([len(flat)])
    else:
        ends = np.append(0, np.cumsum(inner.length, dtype=np.int64))
        last = np.cumsum(outer.length, dtype=np.int64)
        length = ends[last] - ends[last - outer.length]
    return Ragged.from_lengths(length, flat, None if weight is None else np.repeat(weight, inner.length))


Index = NDArray[np.integer]
SHORT = 128
"""Values of a list that are compared one by one."""


@dataclass(frozen=True)
class OperandRows:
    """The operands of N results: each is of a row of one side, or of a pair of a query and an item."""

    placements: Mapping[str, Placement]
    """Whose rows have each operand."""
    rows: Mapping[Placement, Operands]
    of: Mapping[Placement, Index | None]
    """The row of each result, (N,); None where result n is of row n."""
    count: int
    candidates: "OperandRows | None" = None
    """All candidates of the results' requests, if the results are pairs beyond them; None if the results are these."""

    @classmethod
    def alone(
        cls, placements: Mapping[str, Placement], placement: Placement, rows: Operands
    ) -> "OperandRows":
        """Result n is of row n of one placement."""
        return cls(placements, {placement: rows}, {placement: None}, rows.count)

    @classmethod
    def pairs(
        cls,
        placements: Mapping[str, Placement],
        query: Operands,
        item: Operands,
        request_of: Index,
        item_of: Index | None,
        logged: Operands | None = None,
        candidates: "OperandRows | None" = None,
    ) -> "OperandRows":
        """Result n is of request `request_of[n]`, item row `item_of[n]`, n itself if None, and logged row n, if any."""
        rows: dict[Placement, Operands] = {"query": query, "item": item}
        of: dict[Placement, Index | None] = {"query": request_of, "item": item_of}
        if logged is not None:
            rows["cross"], of["cross"] = logged, None
        return cls(placements, rows, of, len(request_of), candidates)

    def take(self, index: Index) -> "OperandRows":
        """Select some of the results."""
        of = {placement: index if rows is None else rows[index] for placement, rows in self.of.items()}
        return OperandRows(self.placements, self.rows, of, len(index))

    def request(self) -> Index:
        """Return the row of the query of each result: (N,)."""
        of = self.of["query"]
        return np.arange(self.count) if of is None else of

    def _side(self, operand: str) -> tuple[Operands, Index | None]:
        placement = self.placements[operand]
        return self.rows[placement], self.of[placement]

    def key(self, operand: str) -> Hashes:
        """Return the hashes of an operand, 0 where missing: (N,)."""
        rows, of = self._side(operand)
        return rows.keys[operand] if of is None else rows.keys[operand].take(of)

    def number(self, operand: str) -> Doubles:
        """Return the numbers of an operand, NaN where missing, as for a number of pairs that were not logged: (N,)."""
        if self.placements[operand] == "cross" and "cross" not in self.rows:
            return np.full(self.count, np.nan)
        rows, of = self._side(operand)
        return rows.numbers[operand] if of is None else rows.numbers[operand].take(of)

    def lists(self, operand: str) -> tuple[Ragged, Index]:
        """Return the lists of the rows that have the operand, and the row of each result: A lists, (N,)."""
        rows, of = self._side(operand)
        return rows.lists[operand], np.arange(self.count) if of is None else of

    def vectors(self, operand: str) -> tuple[Vectors, Index]:
        """Return the vectors of the rows that have the operand, and the row of each result: A vectors, (N,)."""
        rows, of = self._side(operand)
        return rows.vectors[operand], np.arange(self.count) if of is None else of

    def is_list(self, operand: str) -> bool:
        """Whether an operand is a list or a history."""
        return operand in self._side(operand)[0].lists

    def count_matches(self, listed: str, sought: str) -> Doubles:
        """Count how often the lists of an operand hold the value, or the values, of another: (N,).

        By a sorted table of (list, value), so that time grows with the lists and the results, not with their product.
        """
        lists, list_of = self.lists(listed)
        value, result_of = self._values(sought)
        if len(lists.length) == 1:
            entries = lists.values[lists.start[0] :][: lists.length[0]]
            matches = _count_in(entries, value)
        else:
            of = list_of if result_of is None else list_of[result_of]
            entries, times = np.unique(_within(lists.row_of(), lists.flat()), return_counts=True)
            if not len(entries):
                return np.zeros(self.count)
            query = _within(of, value)
            index = np.minimum(np.searchsorted(entries, query), len(entries) - 1)
            matches = np.where((entries[index] == query) & (value != 0), times[index], 0)
        counts = matches if result_of is None else np.bincount(result_of, matches, self.count)
        return counts.astype(np.float64, copy=False)

    def newest(self, listed: str, sought: str, measure: EventAge) -> Doubles:
        """Find the age of the newest event whose value is that, or one of those, of another operand: (N,).

        NaN where there is none. By a table of (list, value), sorted, the newest of each first.
        """
        lists, list_of = self.lists(listed)
        value, result_of = self._values(sought)
        entries, query = lists.flat(), value
        if len(lists.length) > 1:
            of = list_of if result_of is None else list_of[result_of]
            entries, query = _within(lists.row_of(), entries), _within(of, value)
        age = self._side(listed)[0].ages[listed, measure].flat()
        found = np.full(len(query), np.inf)
        if len(entries):
            order = np.lexsort((age, entries))
            entries, age = entries[order], age[order]
            index = np.minimum(np.searchsorted(entries, query), len(entries) - 1)
            found = np.where((entries[index] == query) & (value != 0), age[index], np.inf)
        if result_of is not None:
            each, found = found, np.full(self.count, np.inf)
            np.minimum.at(found, result_of, each)
        return np.where(np.isinf(found), np.nan, found)

    def _values(self, operand: str) -> tuple[Hashes, Index | None]:
        """The values of an operand, 0 for none, and the result that each belongs to; None: value n to result n."""
        if not self.is_list(operand):
            return self.key(operand), None
        rows, of = self._side(operand)
        lists = rows.lists[operand] if of is None else rows.lists[operand].take(of)
        return lists.flat(), lists.row_of()


def _count_in(entries: Hashes, value: Hashes) -> Longs:
    """Count how often each value is in one short list, 0 for value 0: (L,), (N,) → (N,)."""
    if len(entries) <= SHORT:  # all compared: a binary search guesses wrong at every step of every value
        equal = (entries[:, None] == value).view(np.uint8)
        return np.where(value == 0, 0, np.add.reduce(equal, axis=0, dtype=np.uint8))
    ordered = np.sort(entries)
    counts = ordered.searchsorted(value, "right") - ordered.searchsorted(value, "left")
    return np.where(value == 0, 0, counts)


def _within(row: Index, value: Hashes) -> Hashes:
    """A hash of row and value, 0 for value 0: (N,)."""
    return mix_hashes([splitmix64(row.astype(np.uint64)), value])
