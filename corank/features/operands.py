"""Operands of derived features: of ids a hash of the value itself, of numbers the number itself.

Not codes: a brand that no vocabulary knows yet is still the brand in the user's history. Vectors are taken from the
encoded rows, which hold them as they are. Derived features are computed from the operands of one side, or of pairs of a
query and an item.

Letters: N rows of the query, or of items; or N results · A rows of the side that has the list or the vector.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import read_array, read_ragged, write_array, write_ragged
from corank.core.hash_index import splitmix64
from corank.core.ragged import Ragged, Rows, Vectors, take_known
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Doubles, Hashes, Ints, Longs
from corank.features.encoders import Encoders
from corank.features.encoding import RowFeatures, mix_hashes
from corank.features.feature_kind import DerivedFeature, EventAge, Use
from corank.features.schema import Placement, Schema


@dataclass(frozen=True)
class OperandNames:
    """The features of one placement whose raw values derived features take, by what they take of them; not vectors."""

    keys: tuple[str, ...]
    lists: tuple[str, ...]
    numbers: tuple[str, ...]

    @classmethod
    def of(
        cls, schema: Schema, placement: Placement, features: Iterable[DerivedFeature] | None = None
    ) -> Self:
        """Those of some derived features, and of features that these compare; of all unless given, and of filters.

        The items of a history have what derived features take of the history.
        """
        names: dict[Literal["keys", "lists", "numbers"], dict[str, None]] = {
            "keys": {},
            "lists": {},
            "numbers": {},
        }
        events = {*schema.parallels(), *schema.histories()}  # the events of histories have what these are
        derived = schema.derived()
        for feature in derived.values() if features is None else with_compared(schema, features):
            for operand, needed in zip(feature.operands, feature.operand_uses, strict=True):
                of_items = schema.of_items(operand)
                name = of_items or operand
                if schema.placement(name) == placement and name not in events and name not in derived:
                    uses = schema.features[name].uses
                    taken = uses if of_items else uses.intersection(needed)
                    if "vector" not in taken:
                        names[_part(taken)][name] = None
        if placement == "item" and features is None:
            for name in schema.filters():
                names[_part(schema.features[name].uses)][name] = None
        return cls(*map(tuple, names.values()))

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


def with_compared(schema: Schema, features: Iterable[DerivedFeature]) -> list[DerivedFeature]:
    """Add those derived features that are operands of some others."""
    feature_list, derived = list(features), schema.derived()
    return feature_list + [
        derived[name] for feature in feature_list for name in feature.operands if name in derived
    ]


def _part(taken: Collection[Use]) -> Literal["keys", "lists", "numbers"]:
    if "list" in taken:
        return "lists"
    return "keys" if "id" in taken or "key" in taken else "numbers"


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

    @classmethod
    def of(
        cls, encoders: Encoders, wanted: OperandNames, column: Callable[[str], pl.Series], count: int
    ) -> Self:
        """Compute them from the raw values of each feature. Raises DataError for values that its kind cannot take."""
        features, fitted = encoders.schema.columns(), encoders.fitted
        return cls(
            count,
            {n: features[n].keys(fitted.get(n), column(n), n) for n in wanted.keys},
            {n: features[n].lists(column(n), n) for n in wanted.lists},
            {n: features[n].numbers(column(n), n) for n in wanted.numbers},
        )

    def take(self, index: NDArray[np.integer]) -> Self:
        """Select rows by index."""
        return type(self)(
            len(index),
            {name: keys.take(index) for name, keys in self.keys.items()},
            {name: lists.take(index) for name, lists in self.lists.items()},
            {name: values.take(index) for name, values in self.numbers.items()},
            {name: vectors.take(index) for name, vectors in self.vectors.items()},
            {name: ages.take(index) for name, ages in self.ages.items()},
        )

    def among(self, names: Collection[str]) -> Self:
        """The operands of some features alone."""
        return type(self)(
            self.count,
            {name: keys for name, keys in self.keys.items() if name in names},
            {name: lists for name, lists in self.lists.items() if name in names},
            {name: values for name, values in self.numbers.items() if name in names},
            {name: vectors for name, vectors in self.vectors.items() if name in names},
        )

    def compact(self) -> Self:
        """Copy the lists so that they hold no value that no row refers to."""
        lists = {name: values.compact() for name, values in self.lists.items()}
        return type(self)(self.count, self.keys, lists, self.numbers)

    def merge(self, other: Self) -> Self:
        """Add other operands of the same rows."""
        return type(self)(
            self.count, self.keys | other.keys, self.lists | other.lists, self.numbers | other.numbers
        )

    def concat(self, *others: Self) -> Self:
        """The operands of these rows, then of others."""
        parts = (self, *others)
        return type(self)(
            sum(part.count for part in parts),
            {name: np.concatenate([part.keys[name] for part in parts]) for name in self.keys},
            {
                name: lists.concat(*(part.lists[name] for part in others))
                for name, lists in self.lists.items()
            },
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


def gather_history_operands(
    schema: Schema, items: dict[str, Ragged], operands: Operands, names: Iterable[str]
) -> dict[str, Ragged]:
    """Gather the operands `HISTORY` and `HISTORY.FEATURE` among `names` for R users, as lists of hashes.

    Args:
        items: by history the rows of its items, the newest last; of R users each.
        operands: of the items' rows.
    """
    lists = {}
    for name in names:
        feature = schema.of_items(name)
        if feature is not None and schema.features[feature].storage != "vector":
            lists[name] = gather_attribute(items[schema.history_of(name)], feature, operands)
    return lists


def gather_event_ages(
    aged: Mapping[tuple[str, EventAge], str],
    events: Mapping[str, Ints],
    ages: Mapping[str, Longs],
    items: Mapping[str, Ragged],
    operands: Operands,
) -> dict[tuple[str, EventAge], Ragged]:
    """Gather how old the event of each value of an operand is, for R users.

    Args:
        aged: operands, with how their ages are measured, and the history of each.
        events: by history how many events each user has: (R,).
        ages: by history, if they are measured in time, the ms from each event to the request: (E,).
        items: by history the rows of its items, of those with operands `HISTORY.FEATURE`.
        operands: of the items' rows.
    """
    gathered = {}
    for (operand, measure), history in aged.items():
        length = events[history]
        if measure == "time":
            age = np.maximum(ages[history], 0) / (DAY / MILLISECOND)
        else:
            newest = np.repeat(np.cumsum(length, dtype=np.int64) - 1, length)
            age = newest - np.arange(len(newest), dtype=np.float64)
        if (feature := operand.partition(".")[2]) in operands.lists:  # several values an event
            values = take_known(operands.lists[feature].length, items[history].flat())
            of = np.repeat(np.arange(len(length)), length)
            length, age = np.bincount(of, values, len(length)).astype(np.int32), np.repeat(age, values)
        gathered[operand, measure] = Ragged.from_lengths(length, age)
    return gathered


def average_history_vectors(
    schema: Schema, items: dict[str, Ragged], records: Rows, names: Iterable[str]
) -> dict[str, Vectors]:
    """Average what the items of R users' histories have of a vector: the operands `HISTORY.FEATURE` among `names`.

    An event counts by its weight. Items without a vector are left out; who has no other has none.

    Args:
        items: by history the rows of its items among `records`, −1 for none; of R users each.
        records: items, encoded.
    """
    placed, means = schema.row_features("item").vectors, {}
    for name in names:
        feature = schema.of_items(name)
        if feature is not None and schema.features[feature].storage == "vector":
            listed = items[schema.history_of(name)]
            vectors = records.vectors[placed.index(feature)]
            means[name] = vectors.means(listed.flat(), listed.length, listed.flat_weight())
    return means


def gather_attribute(items: Ragged, feature: str, operands: Operands) -> Ragged:
    """Gather what the items of R lists have of a feature, as R lists of hashes. Item −1 is missing."""
    row = items.flat()
    if feature in operands.keys:
        return Ragged.from_lengths(items.length, take_known(operands.keys[feature], row))
    return flatten_lists(items, select_lists(operands.lists[feature], row))


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

    schema: Schema
    rows: Mapping[Placement, Operands]
    of: Mapping[Placement, Index | None]
    """The row of each result, (N,); None where result n is of row n."""
    count: int
    candidates: "OperandRows | None" = None
    """All candidates of the results' requests, if the results are pairs beyond them; None if the results are these."""

    @classmethod
    def alone(cls, schema: Schema, placement: Placement, rows: Operands) -> "OperandRows":
        """Result n is of row n of one placement."""
        return cls(schema, {placement: rows}, {placement: None}, rows.count)

    @classmethod
    def pairs(
        cls,
        schema: Schema,
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
        return cls(schema, rows, of, len(request_of), candidates)

    def take(self, index: Index) -> "OperandRows":
        """Select some of the results."""
        of = {placement: index if rows is None else rows[index] for placement, rows in self.of.items()}
        return OperandRows(self.schema, self.rows, of, len(index))

    def request(self) -> Index:
        """Return the row of the query of each result: (N,)."""
        of = self.of["query"]
        return np.arange(self.count) if of is None else of

    def _side(self, operand: str) -> tuple[Operands, Index | None]:
        placement = self.schema.operand_placements[operand]
        return self.rows[placement], self.of[placement]

    def key(self, operand: str) -> Hashes:
        """Return the hashes of an operand, 0 where missing: (N,)."""
        rows, of = self._side(operand)
        return rows.keys[operand] if of is None else rows.keys[operand].take(of)

    def number(self, operand: str) -> Doubles:
        """Return the numbers of an operand, NaN where missing, as for a number of pairs that were not logged: (N,)."""
        if self.schema.operand_placements[operand] == "cross" and "cross" not in self.rows:
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
