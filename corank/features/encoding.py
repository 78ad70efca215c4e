"""What encoded rows are made of, and what an encoder is: the state that a feature kind learns from training values.

Values → codes of an embedding table: a vocabulary of known values, or a hash of any.

Values are 64-bit whole numbers or text; bools and whole floats count as whole numbers. Codes as in encoding.py.
Derived features compare no codes, but hashes of the values themselves, known to a vocabulary or not.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from corank.core.arrays import read_identifiers, write_identifiers
from corank.core.arrow import to_numbers
from corank.core.errors import DataError
from corank.core.hash_index import FEW, Keys, fill_nulls, null_mask, splitmix64
from corank.core.ragged import Ragged, Vectors
from corank.core.types import Floats, Hashes, Ints, Longs

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Codes of every embedded feature: 0 for a null, 1 for a value outside the vocabulary, then the values."""

Column = Ints | Floats
"""Codes (N,) int32, or numbers (N,) or (N, width) float32."""
Encoded = Column | Ragged | Vectors
"""A column, N lists of codes, or N vectors."""


def take_encoded(encoded: Encoded, index: NDArray[np.integer]) -> Encoded:
    """Select encoded rows by position."""
    return encoded.take(index) if isinstance(encoded, Ragged | Vectors) else encoded[index]


Placement = Literal["query", "item", "snapshot", "cross"]
"""Whose rows a feature is stored with: a request's, an item's, an item's at a snapshot, or a pair's.

A `snapshot` feature is of the item and changes step by step with the time of the request. Its values lie next to the
item row: in packed data with each candidate, in a bundle with each item.
"""
PLACEMENTS: tuple[Placement, ...] = ("query", "item", "snapshot", "cross")
RECORD_PLACEMENTS: tuple[Placement, ...] = ("item", "snapshot")
"""Those whose features are in an item's record, in this order."""
CANDIDATE_PLACEMENTS: tuple[Placement, ...] = ("snapshot", "cross")
"""Those with a row for each candidate of packed data."""


@dataclass(frozen=True)
class RowFeatures:
    """The features of one placement, in the order of the encoded arrays."""

    ids: tuple[str, ...]
    """Those with one code."""
    lists: tuple[str, ...]
    numbers: tuple[str, ...]
    widths: tuple[int, ...]
    """How many numbers each of `numbers` gives."""
    vectors: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        return iter((*self.ids, *self.numbers, *self.lists, *self.vectors))

    @cached_property
    def numbers_at(self) -> Mapping[str, slice]:
        """The columns of `Rows.numbers` of each feature."""
        ends = [sum(self.widths[: n + 1]) for n in range(len(self.widths))]
        return {n: slice(end - w, end) for n, w, end in zip(self.numbers, self.widths, ends, strict=True)}

    @cached_property
    def width(self) -> int:
        """Columns of `Rows.numbers`."""
        return sum(self.widths)

    def select(self, names: Iterable[str]) -> "RowFeatures":
        """Select some features, in the same order."""
        kept, width = set(names), dict(zip(self.numbers, self.widths, strict=True))
        ids, lists, numbers, vectors = (
            tuple(n for n in part if n in kept) for part in (self.ids, self.lists, self.numbers, self.vectors)
        )
        return RowFeatures(ids, lists, numbers, tuple(width[n] for n in numbers), vectors)


@dataclass(frozen=True)
class VectorShape:
    """How a feature of vectors is read, and how it enters networks."""

    dimension: int = 0
    """Numbers of each vector."""
    projection: int | None = None
    """Columns to which a learnt linear map, shared by the stages, takes a vector; None if there is no map."""
    files: tuple[str, ...] = ()
    """Files of its own that it is read from."""

    @property
    def width(self) -> int:
        """Columns of the dense input, with one that is 1 where the vector is missing."""
        return (self.projection or self.dimension) + 1


@dataclass(frozen=True)
class Encoder:
    """Learnt state of one feature.

    A subclass is a frozen dataclass of numbers, text and float64 arrays, which is saved as JSON. Its lower-case class
    name is its name in `encoders.json`; the kinds that use it list it in `FeatureKind.encoders`.
    """

    @property
    def size(self) -> int:
        """Embedding rows; 0 if the encoder gives numbers."""
        return 0

    @property
    def dtype(self) -> pl.DataType | None:
        """Type of the raw values in a table; None if it is not known."""
        return pl.Float64()

    @property
    def limits(self) -> tuple[float, float] | None:
        """The numbers beyond which it clips; None if it clips nothing."""
        return None

    def check(self) -> None:
        """Raise ValueError if no training gives this state: it was read from a file that may be altered."""

    def find_rows(self, earlier: "Encoder") -> Ints | None:
        """Find, for each of its embedding rows, that of an earlier encoder of the same feature: (size,).

        UNKNOWN stands for a value that `earlier` does not know. None if the rows of both do not stand for the same:
        as here, unless all that was learnt is the same.
        """
        return np.arange(self.size, dtype=np.int32) if self.equals(earlier) else None

    def equals(self, other: "Encoder") -> bool:
        """Whether another encoder gives every value the same code or number."""
        return type(self) is type(other) and _plain(self) == _plain(other)

    def sample(self, rng: np.random.Generator, count: int) -> list[Any]:
        """Draw raw values that training knew; none if the encoder does not keep them."""
        return []

    def decode(self, code: int) -> Any:
        """Give the raw value of a known code, or a text that describes it."""
        return f"row {code - FIRST_KNOWN}"

    def dump(self, folder: Path, number: int) -> dict[str, Any]:
        """Give the fields as JSON; a large one may be written to a file of `folder` named by `number`."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    @classmethod
    def load(cls, folder: Path, fields: dict[str, Any]) -> Self:
        """Read what `dump` wrote."""
        arrays = {k: np.array(v, dtype=np.float64) for k, v in fields.items() if isinstance(v, list)}
        return cls(**{**fields, **arrays})


def _plain(encoder: Encoder) -> dict[str, Any]:
    """The fields of an encoder as values that can be compared."""
    values = {part.name: getattr(encoder, part.name) for part in fields(encoder)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}


SAMPLED = 2
"""Values that `sample` draws; a feature that is no list takes the first."""


def choose(known: Any, rng: np.random.Generator, count: int) -> list[Any]:
    """Draw `count` of some known values, with replacement; none if there are none."""
    return [known[n] for n in rng.integers(0, len(known), count).tolist()] if len(known) else []


MOST_ROWS = 2**31 - FIRST_KNOWN
"""Rows that a hash may have: codes are 32 bits wide."""


def to_identifiers(values: pl.Series, name: str) -> pl.Series:
    """Cast values to Int64 or String, nulls kept. Raises DataError, which names `name`, for anything else."""
    kind = values.dtype
    if kind in (pl.Int64, pl.String):
        return values
    if kind.is_integer() or kind in (pl.Boolean, pl.Null):
        try:
            return values.cast(pl.Int64)
        except pl.exceptions.PolarsError:
            raise DataError(f"feature '{name}': {values.max()!r} does not fit into 64 bits") from None
    if isinstance(kind, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    if kind.is_float():
        whole = values.cast(pl.Int64, strict=False)
        wrong = values.filter((whole.cast(pl.Float64) != values.cast(pl.Float64)).fill_null(True))
        if wrong.null_count() == len(wrong):
            return whole
        values = wrong.drop_nulls()
    raise DataError(f"feature '{name}': expected whole numbers or text; received {_example(values)}")


def as_int64(values: list[Any]) -> Longs | None:
    """Convert whole numbers of 64 bits to an array, faster than by a series; None if any value is something else."""
    if not values or type(values[0]) is not int:
        return None
    try:
        # bools, floats and objects that only count as numbers are refused by the first, 64 bits checked by the second
        whole = msgspec.convert(values, list[int])
        return np.frombuffer(struct.pack(f"{len(whole)}q", *whole), dtype=np.int64)
    except (msgspec.ValidationError, struct.error):
        return None


def _example(values: pl.Series) -> str:
    first = values.drop_nulls().head(1).to_list()
    return f"{first[0]!r} ({values.dtype})" if first else str(values.dtype)


@dataclass(frozen=True)
class Vocabulary(Encoder):
    """Known values in the order of their codes, from FIRST_KNOWN; others are UNKNOWN, nulls MISSING."""

    values: pl.Series

    def extend(self, values: pl.Series) -> Self:
        """Add codes for values not yet known, in the order of their first appearance; known codes stay."""
        new = values.drop_nulls().unique(maintain_order=True)
        new = new.filter(pl.Series(self._keys.find(new) < 0))
        return type(self)(pl.concat([self.values, new]) if len(self.values) else new)

    @property
    def size(self) -> int:
        """Embedding rows."""
        return FIRST_KNOWN + len(self.values)

    @property
    def dtype(self) -> pl.DataType:
        """That of the values; whole numbers if training saw none."""
        return self.values.dtype

    def sample(self, rng: np.random.Generator, count: int) -> list[Any]:
        """Draw some of the values."""
        return choose(self.values, rng, count)

    def decode(self, code: int) -> Any:
        """Give the value of a known code."""
        return self.values[code - FIRST_KNOWN]

    def dump(self, folder: Path, number: int) -> dict[str, Any]:
        """Write the values to files, and name them."""
        name = f"vocabulary-{number}"
        write_identifiers(folder, name, self.values)
        return {"file": name}

    @classmethod
    def load(cls, folder: Path, fields: dict[str, Any]) -> Self:
        """Read what `dump` wrote."""
        return cls(read_identifiers(folder, fields["file"]))

    def check(self) -> None:
        """Raise ValueError if a value is there twice: it would have two codes."""
        if self.values.n_unique() < len(self.values):
            raise ValueError("a value is there twice")

    def find_rows(self, earlier: Encoder) -> Ints | None:
        """Find the row of each value in an earlier vocabulary of the same type of values: (size,)."""
        if not isinstance(earlier, Vocabulary):
            return None
        codes = np.full(len(self.values), UNKNOWN, dtype=np.int32)
        if len(self.values) and len(earlier.values):
            if self.dtype != earlier.dtype:
                return None
            codes = earlier.codes(self.values, "")
        return np.concatenate((np.array([MISSING, UNKNOWN], dtype=np.int32), codes))

    def equals(self, other: Encoder) -> bool:
        """Whether another vocabulary has the same values in the same order."""
        return isinstance(other, Vocabulary) and self.values.equals(other.values, check_dtypes=True)

    @cached_property
    def _order(self) -> NDArray[np.integer]:
        return self.values.arg_sort().to_numpy()

    @cached_property
    def _keys(self) -> Keys:
        return Keys(self.values.gather(self._order))

    @cached_property
    def _codes(self) -> Ints:
        return np.append(self._order + FIRST_KNOWN, UNKNOWN).astype(np.int32)

    def codes(self, values: pl.Series, name: str) -> Ints:
        """Codes of values: (N,). Raises DataError for text where the vocabulary holds numbers, and the reverse."""
        values = to_identifiers(values, name)
        nulls = values.null_count()
        if len(self.values) and values.dtype != self.values.dtype and nulls < len(values):
            raise wrong_type(values, self.values.dtype == pl.String, name)
        codes: Ints = self._codes[self._keys.find(values)]
        if nulls:
            codes[null_mask(values)] = MISSING
        return codes

    @cached_property
    def text(self) -> bool:
        """Whether the values are text."""
        return self.values.dtype == pl.String

    def codes_of_numbers(self, values: Longs) -> Ints:
        """Codes of whole numbers, if the vocabulary holds those: (N,)."""
        codes: Ints = self._codes.take(self._keys.find_numbers(values))
        return codes

    def codes_of(self, hashed: Hashes) -> Ints:
        """Codes of hashes that were learnt as whole numbers, 0 for missing: (N,)."""
        codes = self.codes_of_numbers(hashed.view(np.int64))
        codes *= hashed != 0  # else MISSING
        return codes


@dataclass(frozen=True)
class Hash(Encoder):
    """Any value → one of `rows` codes: splitmix64 of numbers, BLAKE2b of text; the same on every machine."""

    rows: int
    text: bool

    @property
    def size(self) -> int:
        """Embedding rows."""
        return FIRST_KNOWN + self.rows

    @property
    def dtype(self) -> pl.DataType:
        """Text or whole numbers, as in training."""
        return pl.String() if self.text else pl.Int64()

    def check(self) -> None:
        """Raise ValueError unless `rows` is a number of rows and `text` yes or no."""
        if type(self.rows) is not int or not 0 < self.rows < MOST_ROWS or type(self.text) is not bool:
            raise ValueError(f"expected rows of a table and whether of text; found {vars(self)!r:.100}")

    def codes(self, values: pl.Series, name: str) -> Ints:
        """Codes of values: (N,). Raises DataError for text where numbers were hashed in training, and the reverse."""
        values = to_identifiers(values, name)
        if values.null_count() == len(values):
            return np.zeros(len(values), dtype=np.int32)
        if (values.dtype == pl.String) != self.text:
            raise wrong_type(values, self.text, name)
        hashed = _blake(values) if self.text else splitmix64(fill_nulls(values).view(np.uint64))
        codes = self._codes(hashed)
        if values.null_count():
            codes[null_mask(values)] = MISSING
        return codes

    def codes_of_numbers(self, values: Longs) -> Ints:
        """Codes of whole numbers, if those were hashed in training: (N,)."""
        return self._codes(splitmix64(values.view(np.uint64)))

    def codes_of(self, hashed: Hashes) -> Ints:
        """Codes of hashes, 0 for missing: (N,)."""
        codes = self._codes(splitmix64(hashed))
        codes *= hashed != 0  # else MISSING
        return codes

    def _codes(self, hashed: Hashes) -> Ints:
        return (hashed % np.uint64(self.rows)).astype(np.int32) + np.int32(FIRST_KNOWN)


def wrong_type(values: pl.Series, text: bool, name: str) -> DataError:
    """Make the error for values of another type than in training."""
    expected = "text" if text else "whole numbers"
    return DataError(f"feature '{name}': expected {expected}, as in training; received {_example(values)}")


def hash_values(values: pl.Series | Longs, name: str) -> Hashes:
    """Hash each value; 0 stands for null: (N,). Raises DataError for values that are no identifiers."""
    if isinstance(values, np.ndarray):
        return hash_numbers(values)
    values = to_identifiers(values, name)
    nulls = values.null_count()
    if nulls == len(values):
        return np.zeros(len(values), dtype=np.uint64)
    if values.dtype == pl.String:
        hashed = _blake(values)
        hashed[hashed == 0] = 1
    else:
        hashed = hash_numbers(fill_nulls(values))
    if nulls:
        hashed[null_mask(values)] = 0
    return hashed


def hash_numbers(values: Longs) -> Hashes:
    """Hash whole numbers as `hash_values` does: (N,)."""
    hashed = splitmix64(values.view(np.uint64))
    hashed += hashed == 0
    return hashed


def mix_hashes(columns: Sequence[Hashes]) -> Hashes:
    """Mix several hashes into one, in their order; 0 where any of them is 0: (N,)."""
    hashed, *others = columns
    if not others:
        return hashed
    known = hashed != 0
    for other in others:
        hashed = splitmix64(hashed) ^ other
        known &= other != 0
    hashed = splitmix64(hashed)
    hashed += hashed == 0
    hashed *= known
    return hashed


@lru_cache(maxsize=2**16)
def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _blake(texts: pl.Series) -> Hashes:
    """The first 8 bytes, little-endian, of BLAKE2b of each text in UTF-8; of a null any: (N,)."""
    if len(texts) <= FEW:
        return np.fromiter((_digest(text or "") for text in texts.to_list()), np.uint64, len(texts))
    array = texts.to_arrow().dictionary_encode()
    distinct = np.array([_digest(text) for text in array.dictionary.to_pylist()], dtype=np.uint64)
    hashed: Hashes = distinct[to_numbers(array.indices)]
    return hashed
