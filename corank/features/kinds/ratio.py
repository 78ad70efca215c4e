"""`kind: ratio`: the ratio of two numbers."""

from typing import ClassVar, Literal

import numpy as np

from corank.features.feature_kind import FEATURE_KINDS
from corank.features.kinds.scaled import ArithmeticFeature


@FEATURE_KINDS.register("ratio")
class RatioFeature(ArithmeticFeature):
    """a / b of two numbers; missing if either is, or if the ratio is not finite, as if b is 0."""

    kind: Literal["ratio"] = "ratio"

    operation: ClassVar[np.ufunc] = np.divide
