"""A feature kind: a number that comes round, such as the hour of the day, as its sine and cosine.

    hour: {kind: cyclical, side: context, period: 24}

Hour 23 and hour 0 are then neighbours, as they are not in a scaled number.
"""

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import PositiveFloat

from corank.core.types import Doubles, Floats
from corank.features.encoding import Encoded, Encoder
from corank.features.feature_kind import FEATURE_KINDS, ColumnFeature, Use
from corank.features.scale import to_numbers


@FEATURE_KINDS.register("cyclical")
class CyclicalFeature(ColumnFeature):
    """A number on a circle of `period` units; a missing one is the centre of the circle."""

    kind: Literal["cyclical"]
    period: PositiveFloat
    """Units of one round, such as 24 for hours."""

    uses: ClassVar[frozenset[Use]] = frozenset({"number"})

    @property
    def width(self) -> int:
        return 2

    def encode(self, encoder: Encoder | None, values: pl.Series, name: str) -> Encoded:
        angle = 2 * np.pi * to_numbers(values, name) / self.period
        circle: Floats = np.stack((np.sin(angle), np.cos(angle)), axis=1).astype(np.float32)
        return np.nan_to_num(circle)

    def numbers(self, values: pl.Series, name: str) -> Doubles:
        return to_numbers(values, name)
