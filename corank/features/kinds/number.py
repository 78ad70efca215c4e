"""`kind: number`: a number, scaled."""

from typing import ClassVar, Literal

import polars as pl

from corank.core.types import Doubles
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, Use
from corank.features.scale import Scale, Scaling, is_number, to_numbers
from corank.features.training_values import TrainingValues


@FEATURE_KINDS.register("number")
class NumberFeature(ColumnFeature):
    """A number, scaled to about unit size. A missing one becomes the scaled mean; use `bucket` if missing matters."""

    kind: Literal["number"] = "number"
    scale: Scaling = "standard"
    """How it is brought to about unit size."""

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Scale,)
    uses: ClassVar[frozenset[Use]] = frozenset({"number"})
    network_settings: ClassVar[frozenset[str]] = frozenset({"scale"})

    def check_column(self, name: str, dtype: pl.DataType) -> str | None:
        """Expect numbers."""
        return None if is_number(dtype) else f"numbers, as features.{name} is of kind number"

    def fit(self, values: TrainingValues) -> Encoder:
        """Learn the scale, and the range that numbers are clipped to."""
        if not self.input:
            return Scale("none")
        return Scale.fit(values, self.scale).clip_to(values)

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        """Scaled numbers (N,)."""
        assert isinstance(encoder, Scale)
        return encoder.scale(to_numbers(values, name))

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        """The numbers as they are: (N,)."""
        return to_numbers(values, name)
