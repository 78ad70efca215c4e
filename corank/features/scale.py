"""Encoders of numbers: scaled to about unit size, or cut into buckets. A null is a NaN here."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import polars as pl

from corank.core.errors import DataError
from corank.core.types import Doubles, Floats, Ints
from corank.features.encoding import FIRST_KNOWN, MISSING, Encoder, choose
from corank.features.training_values import TrainingValues

Scaling = Literal["none", "standard", "log", "quantile"]

KNOTS = 257
"""Quantiles kept for `scale: quantile`."""


def is_number(dtype: pl.DataType) -> bool:
    """Whether a column of this type can hold numbers."""
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)


def to_numbers(values: pl.Series, name: str) -> Doubles:
    """Read values as float64, NaN for null: (N,). Raises DataError for NaN, infinities and what is no number."""
    if not is_number(values.dtype):
        first = values.drop_nulls().head(1).to_list()
        raise DataError(
            f"feature '{name}': expected numbers; received {first or values.dtype} ({values.dtype})"
        )
    array = values.cast(pl.Float64).to_numpy()
    if np.isinf(array).any() or np.count_nonzero(np.isnan(array)) != values.null_count():
        kind = "an infinity" if np.isinf(array).any() else "NaN"
        raise DataError(f"feature '{name}': {kind} is no number; write null for a missing one")
    return array


@dataclass(frozen=True)
class Bucket(Encoder):
    """Buckets between ascending edges: code FIRST_KNOWN + the number of edges at or below a number."""

    edges: Doubles

    @classmethod
    def fit(cls, sample: Doubles, buckets: int) -> Self:
        """Learn the edges: the distinct quantiles that cut a sample into so many parts."""
        if not len(sample):
            return cls(np.empty(0))
        return cls(np.unique(np.quantile(sample, np.arange(1, buckets) / buckets)))

    @property
    def size(self) -> int:
        """Embedding rows."""
        return FIRST_KNOWN + len(self.edges) + 1

    def codes(self, values: Doubles) -> Ints:
        """Codes of numbers, MISSING for NaN: (N,)."""
        codes = np.searchsorted(self.edges, values, side="right").astype(np.int32) + np.int32(FIRST_KNOWN)
        codes[np.isnan(values)] = MISSING
        return codes

    def sample(self, rng: np.random.Generator, count: int) -> list[Any]:
        """Draw some of the edges."""
        return choose(self.edges.tolist(), rng, count)

    def decode(self, code: int) -> str:
        """Give the bounds of a code's bucket."""
        edges = np.concatenate(([-np.inf], self.edges, [np.inf])).tolist()
        return f"{edges[code - FIRST_KNOWN]:g} … {edges[code - FIRST_KNOWN + 1]:g}"


@dataclass(frozen=True)
class Scale(Encoder):
    """A scale that brings numbers to about unit size.

    none: x · standard: (x − mean) / std · log: y = sign(x)·log(1 + |x|), then standard
    · quantile: (p − ½)·√12 for the share p of training values below x (uniform: mean 0, variance 1).
    """

    form: Scaling
    mean: float = 0.0
    std: float = 1.0
    knots: Doubles | None = None
    shares: Doubles | None = None

    @classmethod
    def fit(cls, values: TrainingValues, form: Scaling) -> Self:
        """Learn a scale from training values."""
        if form == "quantile":
            return cls.from_sample(to_numbers(values.sample(), values.name))
        return cls(form) if form == "none" else cls.from_moments(form, *values.moments(log=form == "log"))

    @classmethod
    def from_moments(cls, form: Literal["standard", "log"], mean: float | None, std: float | None) -> Self:
        """Make a scale of `mean` and `std` of x, or of y for log; None if there was no value."""
        return cls(form, mean or 0.0, std or 1.0)

    @classmethod
    def from_sample(cls, sample: Doubles) -> Self:
        """Make a quantile scale. A value that is several quantiles at once gets the middle of their shares."""
        if not len(sample):
            return cls("quantile", knots=np.zeros(1), shares=np.full(1, 0.5))
        share = np.linspace(0, 1, KNOTS)
        knots, index = np.unique(np.quantile(sample, share), return_inverse=True)
        shares = np.bincount(index, weights=share) / np.bincount(index)
        return cls("quantile", knots=knots, shares=shares)

    def scale(self, values: Doubles) -> Floats:
        """Scale numbers; missing ones become 0, the scaled mean: (N,)."""
        if self.knots is not None and self.shares is not None:
            values = (np.interp(values, self.knots, self.shares) - 0.5) * np.sqrt(12)
        elif self.form == "log":
            values = (np.sign(values) * np.log1p(np.abs(values)) - self.mean) / self.std
        else:
            values = (values - self.mean) / self.std
        with np.errstate(over="ignore"):  # whoever sums it reports the infinity
            scaled = values.astype(np.float32)
        scaled[np.isnan(scaled)] = 0
        return scaled
