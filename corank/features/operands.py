"""What crosses and priors are made of: of ids a hash of the value itself, of numbers the number itself.

Not codes: a brand that no vocabulary knows yet is still the brand in the user's history.

Letters: N rows of the query, or of items.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.files import read_array, read_ragged, write_array, write_ragged
from corank.core.ragged import Ragged
from corank.core.types import Doubles, Hashes
from corank.features.encoders import Encoders, split
from corank.features.kinds import (
    BucketFeature,
    ContainsFeature,
    CountFeature,
    DerivedFeature,
    IdsFeature,
    PairFeature,
    PriorFeature,
)
from corank.features.scale import Bucket, numbers
from corank.features.schema import MISSING, Placement, Schema
from corank.features.vocabulary import hashes, splitmix64


@dataclass(frozen=True)
class Wanted:
    """The operands that a placement's rows must have, by feature."""

    keys: tuple[str, ...]
    lists: tuple[str, ...]
    numbers: tuple[str, ...]

    @classmethod
    def of(
        cls, schema: Schema, placement: Placement, features: Iterable[DerivedFeature] | None = None
    ) -> Self:
        """Those of all derived features, and what is filtered by; or of some derived features.

        A history's items have what is asked of the history.
        """
        keys: dict[str, None] = {}
        lists: dict[str, None] = {}
        values: dict[str, None] = {}
        for feature in schema.derived().values() if features is None else features:
            for operand in feature.operands:
                name = schema.of_items(operand) or operand
                if schema.placement(name) != placement:
                    continue
                if isinstance(schema.features[name], IdsFeature):
                    lists[name] = None
                elif isinstance(feature, PairFeature | PriorFeature | ContainsFeature | CountFeature):
                    keys[name] = None
                else:
                    values[name] = None
        if placement == "item" and features is None:
            for name in schema.filters():
                (lists if isinstance(schema.features[name], IdsFeature) else keys)[name] = None
        return cls(tuple(keys), tuple(lists), tuple(values))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.keys, *self.lists, *self.numbers)

    def among(self, names: Collection[str]) -> Self:
        """Those of some features."""
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

    @classmethod
    def of(cls, encoders: Encoders, wanted: Wanted, column: Callable[[str], pl.Series], count: int) -> Self:
        """From the raw values of each feature. Raises DataError for what its kind cannot be."""
        return cls(
            count,
            {name: _keys(encoders, name, column(name)) for name in wanted.keys},
            {name: _lists(encoders.schema, name, column(name)) for name in wanted.lists},
            {name: numbers(column(name), name) for name in wanted.numbers},
        )

    def take(self, index: NDArray[np.integer]) -> Self:
        return type(self)(
            len(index),
            {name: keys[index] for name, keys in self.keys.items()},
            {name: lists.take(index) for name, lists in self.lists.items()},
            {name: values[index] for name, values in self.numbers.items()},
        )

    def compact(self) -> Self:
        lists = {name: values.compact() for name, values in self.lists.items()}
        return type(self)(self.count, self.keys, lists, self.numbers)

    def joined(self, other: Self) -> Self:
        """With other operands of the same rows."""
        return type(self)(
            self.count, self.keys | other.keys, self.lists | other.lists, self.numbers | other.numbers
        )

    def followed(self, other: Self) -> Self:
        """The operands of these rows, then of others."""
        return type(self)(
            self.count + other.count,
            {name: np.concatenate((keys, other.keys[name])) for name, keys in self.keys.items()},
            {name: lists.followed(other.lists[name]) for name, lists in self.lists.items()},
            {name: np.concatenate((values, other.numbers[name])) for name, values in self.numbers.items()},
        )

    def ordered(self, wanted: Wanted) -> Self:
        """In the order in which they are saved."""
        return type(self)(
            self.count,
            {name: self.keys[name] for name in wanted.keys},
            {name: self.lists[name] for name in wanted.lists},
            {name: self.numbers[name] for name in wanted.numbers},
        )

    def replaced(self, at: NDArray[np.integer], new: Self) -> Self:
        """These rows with those at `at` replaced by `new`, in order."""

        def put(old: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
            out = old.copy()
            out[at] = fresh
            return out

        return type(self)(
            self.count,
            {name: put(keys, new.keys[name]) for name, keys in self.keys.items()},
            {name: lists.replaced(at, new.lists[name]) for name, lists in self.lists.items()},
            {name: put(values, new.numbers[name]) for name, values in self.numbers.items()},
        )

    def with_lists(self, lists: dict[str, Ragged]) -> Self:
        return type(self)(self.count, self.keys, self.lists | lists, self.numbers)

    def save(self, folder: Path) -> None:
        """Write an array an operand, numbered in order."""
        folder.mkdir(parents=True, exist_ok=True)
        for n, keys in enumerate(self.keys.values()):
            write_array(folder / f"key{n}.npy", keys)
        for n, lists in enumerate(self.lists.values()):
            write_ragged(folder, n, lists)
        for n, values in enumerate(self.numbers.values()):
            write_array(folder / f"number{n}.npy", values)

    @classmethod
    def load(cls, folder: Path, wanted: Wanted, count: int) -> Self:
        """Memory-mapped. Raises DataError if a part is missing or damaged."""
        return cls(
            count,
            {name: read_array(folder / f"key{n}.npy") for n, name in enumerate(wanted.keys)},
            {name: read_ragged(folder, n) for n, name in enumerate(wanted.lists)},
            {name: read_array(folder / f"number{n}.npy") for n, name in enumerate(wanted.numbers)},
        )


def _keys(encoders: Encoders, name: str, values: pl.Series) -> Hashes:
    if not isinstance(encoders.schema.features[name], BucketFeature):
        return hashes(values, name)
    encoder = encoders.fitted[name]
    assert isinstance(encoder, Bucket)
    codes = encoder.codes(numbers(values, name))
    hashed = splitmix64(codes.astype(np.uint64))
    hashed[codes == MISSING] = 0
    return hashed


def _lists(schema: Schema, name: str, values: pl.Series) -> Ragged:
    feature = schema.features[name]
    assert isinstance(feature, IdsFeature)
    length, flat = split(values, feature.separator, name)
    return Ragged.packed(length, hashes(flat, name)).first(feature.last)


def of_histories(
    schema: Schema, items: dict[str, Ragged], operands: Operands, names: Iterable[str]
) -> dict[str, Ragged]:
    """The operands `HISTORY` and `HISTORY.FEATURE` among `names`, of R users: lists of hashes.

    Args:
        items: by history the rows of its items, the newest last; of R users each.
        operands: of the items' rows.
    """
    found = {}
    for name in names:
        feature = schema.of_items(name)
        if feature is not None:
            found[name] = attribute(items[schema.history_of(name)], feature, operands)
    return found


def attribute(items: Ragged, feature: str, operands: Operands) -> Ragged:
    """What the items of R lists have of a feature, one after another: R lists of hashes. An item −1 has none."""
    row = items.flat()
    if feature in operands.keys:
        keys = np.zeros(len(row), dtype=np.uint64)
        keys[row >= 0] = operands.keys[feature][row[row >= 0]]
        return Ragged.packed(items.length, keys)
    return nested(items, lists_of(operands.lists[feature], row))


def lists_of(lists: Ragged, row: NDArray[np.integer]) -> Ragged:
    """The lists of some rows, an empty one for row −1."""
    start, length = np.zeros(len(row), dtype=np.int64), np.zeros(len(row), dtype=np.int32)
    known = row >= 0
    start[known], length[known] = lists.start[row[known]], lists.length[row[known]]
    return Ragged(start, length, lists.values)


def nested(outer: Ragged, inner: Ragged) -> Ragged:
    """The values of each list's lists, one after another: `inner` has a list for every value of `outer.flat()`."""
    ends = np.append(0, np.cumsum(inner.length, dtype=np.int64))
    last = np.cumsum(outer.length, dtype=np.int64)
    weight = outer.flat_weight()
    return Ragged.packed(
        ends[last] - ends[last - outer.length],
        inner.flat(),
        None if weight is None else np.repeat(weight, inner.length),
    )
