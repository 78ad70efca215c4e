"""What encoded rows are made of, and what an encoder is: the state that a feature kind learns from training values."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from corank.core.ragged import Ragged, Vectors
from corank.core.types import Floats, Ints

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Codes of every embedded feature: 0 for a null, 1 for a value outside the vocabulary, then the values."""

Column = Ints | Floats
"""Codes (N,) int32, or numbers (N,) or (N, width) float32."""
Encoded = Column | Ragged | Vectors
"""A column, N lists of codes, or N vectors."""


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

    @property
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
    """Files beside the tables that it is read from."""

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
        """Raise ValueError if the state is none that training gives: it was read from a file that may be altered."""

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
