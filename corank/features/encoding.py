"""What an encoder is: the state that a feature kind learns from training values, saved beside the packed data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from corank.core.ragged import Ragged
from corank.core.types import Floats, Ints

MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2
"""Codes of every embedded feature: 0 for a null, 1 for a value outside the vocabulary, then the values."""

Column = Ints | Floats
"""Codes (N,) int32, or numbers (N,) or (N, width) float32."""
Encoded = Column | Ragged
"""A column, or N lists of codes."""


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


def choose(known: Any, rng: np.random.Generator, count: int) -> list[Any]:
    """Draw `count` of some known values, with replacement; none if there are none."""
    return [known[n] for n in rng.integers(0, len(known), count).tolist()] if len(known) else []
