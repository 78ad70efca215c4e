"""Encoders of numbers: scaled to about unit size, or cut into buckets. A null is a NaN here.

What derived kinds share: two operands under `of`, a number that is scaled or cut into buckets.
"""

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import polars as pl
from annotated_types import Len
from pydantic import PositiveInt, model_validator

from corank.core.errors import DataError
from corank.core.types import Doubles, Floats, Hashes, Ints
from corank.features.encoding import FIRST_KNOWN, MISSING, Column, Encoder, choose
from corank.features.feature_kind import DerivedFeature, Storage, Use
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


def is_ascending(values: object) -> bool:
    """Whether a value is an array of finite numbers, each above the one before."""
    return (
        isinstance(values, np.ndarray)
        and values.ndim == 1
        and bool(np.isfinite(values).all() and (np.diff(values) > 0).all())
    )


@dataclass(frozen=True)
class Bucket(Encoder):
    """Buckets between ascending edges: code FIRST_KNOWN + the number of edges at or below a number."""

    edges: Doubles

    @classmethod
    def fit(cls, sample: Doubles, buckets: int) -> Self:
        """Learn the edges that cut a sample into parts of equal mass, at values.

        A value of more mass than a part, such as the 0 of a sparse count, is a part by itself, and the others are of
        what is left: quantiles of the whole sample would all be that value. Distinct values that are few get a bucket
        each.
        """
        values, counts = np.unique(sample, return_counts=True)
        if len(values) <= buckets:
            return cls(values[1:].astype(np.float64))
        alone = np.zeros(len(values), dtype=bool)
        while True:
            size = (counts[~alone].sum() - 1) / (buckets - np.count_nonzero(alone))
            more = ~alone & (counts > size)
            if not more.any():
                break
            alone |= more
        # the part of a value is that of the last of its rows; the sum of many parts may be rounded down
        last = np.cumsum(np.where(alone, size, counts)) - 1
        part = np.minimum((last / size + 1e-9).astype(np.int64), buckets - 1)
        return cls(values[1:][np.diff(part) > 0].astype(np.float64))

    @property
    def size(self) -> int:
        """Embedding rows."""
        return FIRST_KNOWN + len(self.edges) + 1

    def codes(self, values: Doubles) -> Ints:
        """Codes of numbers, MISSING for NaN: (N,)."""
        codes = np.searchsorted(self.edges, values, side="right").astype(np.int32) + np.int32(FIRST_KNOWN)
        codes[np.isnan(values)] = MISSING
        return codes

    def check(self) -> None:
        """Raise ValueError unless the edges are finite and ascending."""
        if not is_ascending(self.edges):
            raise ValueError("expected finite edges, ascending")

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

    With `low` and `high` a number outside of them is clipped: a network says nothing sensible of what it never saw, and
    a far number would drown all others.
    """

    form: Scaling
    mean: float = 0.0
    std: float = 1.0
    knots: Doubles | None = None
    shares: Doubles | None = None
    low: float | None = None
    """The least training value; None if nothing is clipped, as by encoders that an older corank fitted."""
    high: float | None = None
    """The greatest."""

    @classmethod
    def fit(cls, values: TrainingValues, form: Scaling) -> Self:
        """Learn a scale from training values."""
        if form == "quantile":
            return cls.from_sample(to_numbers(values.sample(), values.name))
        return cls(form) if form == "none" else cls.from_moments(form, *values.moments(log=form == "log"))

    def clip_to(self, values: TrainingValues) -> Self:
        """Clip to the range of training values; if there is none, every number becomes that of a missing one."""
        low, high = values.bounds()
        return replace(self, low=self.mean if low is None else low, high=self.mean if high is None else high)

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

    @property
    def limits(self) -> tuple[float, float] | None:
        """The range of training values, if numbers are clipped to it."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def check(self) -> None:
        """Raise ValueError unless form, moments, quantiles and range fit together."""
        numbers = [self.mean, self.std, *(self.limits or (0.0, 0.0))]
        if self.form not in get_args(Scaling) or (self.low is None) != (self.high is None):
            raise ValueError(f"expected form and range; found {self.form!r:.100}, {self.low}, {self.high}")
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"expected finite numbers; found {numbers!r:.100}")
        if not (self.std > 0 and numbers[2] <= numbers[3]):
            raise ValueError(f"expected a deviation above 0 and an ascending range; found {numbers!r:.100}")
        if self.form == "quantile" or self.knots is not None or self.shares is not None:
            self._check_quantiles()

    def _check_quantiles(self) -> None:
        knots, shares = self.knots, self.shares
        if knots is None or not is_ascending(knots) or not len(knots):
            raise ValueError("expected finite knots, ascending")
        if not isinstance(shares, np.ndarray) or shares.shape != knots.shape or np.isnan(shares).any():
            raise ValueError("expected a share of each knot")
        if self.form != "quantile" or shares.min() < 0 or shares.max() > 1:
            raise ValueError("expected shares between 0 and 1, of quantiles alone")

    def scale(self, values: Doubles) -> Floats:
        """Clip and scale numbers; missing ones become 0, the scaled mean: (N,)."""
        if self.limits is not None:
            values = np.minimum(np.maximum(values, self.limits[0]), self.limits[1])
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


class CrossFeature(DerivedFeature, ABC):
    """A derived feature of two operands."""

    of: Annotated[list[str], Len(2, 2)]
    """The two features that it is made of."""

    @property
    def operands(self) -> Sequence[str]:
        """Those of `of`."""
        return self.of


class ScaledFeature(DerivedFeature, ABC):
    """A derived feature that is a number: scaled, or cut into `buckets` and embedded."""

    scale: Scaling | None = None
    """That of its kind unless given."""
    buckets: PositiveInt | None = None
    """Cut into so many buckets of about equal mass and embedded, with a row for missing values, in place of `scale`."""
    dim: PositiveInt = 16
    """Of the embedding, with `buckets`."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Scale, Bucket)
    uses: ClassVar[frozenset[Use]] = frozenset({"number"})
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    default_scale: ClassVar[Scaling] = "standard"
    clips: ClassVar[bool] = False  # whether numbers are clipped to the range of the training rows

    @property
    def scaling(self) -> Scaling:
        """The scale in effect."""
        return self.scale or self.default_scale

    @property
    def storage(self) -> Storage:
        """One code with `buckets`, else a number."""
        return "number" if self.buckets is None else "id"

    @property
    def width(self) -> int:
        """The dimension of the embedding, with `buckets`; else 1."""
        return 1 if self.buckets is None else self.dim

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.buckets is not None and self.scale is not None:
            raise ValueError("buckets embed the number and scale leaves it one; write one of them")
        return self

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn the edges of the buckets, or the scale and, if it `clips`, the range that numbers are clipped to."""
        if self.buckets is not None:
            return Bucket.fit(to_numbers(values.sample(), values.name), self.buckets)
        scale = Scale.fit(values, self.scaling)
        return scale.clip_to(values) if self.clips else scale

    def encode(self, encoder: Encoder | None, values: Hashes | Doubles) -> Column:
        """Codes or scaled numbers: (N,)."""
        number = values.astype(np.float64, copy=False)
        if isinstance(encoder, Bucket):
            return encoder.codes(number)
        assert isinstance(encoder, Scale)
        return encoder.scale(number)
