"""What derived kinds share: two operands under `of`, a number that is scaled or cut into buckets."""

from abc import ABC
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import numpy as np
from annotated_types import Len
from pydantic import PositiveInt, model_validator

from corank.core.types import Doubles, Hashes
from corank.features.encoding import Column, Encoder
from corank.features.feature_kind import DerivedFeature, Storage, Use
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
