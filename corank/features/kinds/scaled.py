"""What derived kinds share: two operands under `of`, a number that is scaled or cut into buckets, arithmetic."""

from abc import ABC
from collections.abc import Collection, Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from annotated_types import Len
from pydantic import PositiveInt, model_validator

from corank.core.types import Doubles, Hashes
from corank.features.encoding import Column, Encoder
from corank.features.feature_kind import DerivedFeature, Storage, Use
from corank.features.operand_rows import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import Bucket, Scale, Scaling, to_numbers
from corank.features.training_values import TrainingValues


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
    unpacked_settings: ClassVar[frozenset[str]] = frozenset({"dim"})
    default_scale: ClassVar[Scaling] = "standard"

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
        """Learn the edges of the buckets, or the scale."""
        if self.buckets is not None:
            return Bucket.fit(to_numbers(values.sample(), values.name), self.buckets)
        return Scale.fit(values, self.scaling)

    def encode(self, encoder: Encoder | None, values: Hashes | Doubles) -> Column:
        """Codes or scaled numbers: (N,)."""
        number = values.astype(np.float64, copy=False)
        if isinstance(encoder, Bucket):
            return encoder.codes(number)
        assert isinstance(encoder, Scale)
        return encoder.scale(number)


class ArithmeticFeature(ScaledFeature, CrossFeature, ABC):
    """A number computed from two numbers; missing if either is, or if the result is not finite."""

    operands_text: ClassVar[str] = "two features of kind number or bucket"
    operation: ClassVar[np.ufunc]

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """Two numbers."""
        return [{"number"}, {"number"}]

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn the edges of the buckets, or the scale and the range that results are clipped to."""
        fitted = super().fit(values)
        return fitted.clip_to(values) if isinstance(fitted, Scale) else fitted

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The result, NaN where it is not finite: (N,)."""
        first, second = (operands.number(name) for name in self.of)
        with np.errstate(all="ignore"):
            found: Doubles = self.operation(first, second)
        return np.where(np.isfinite(found), found, np.nan)
