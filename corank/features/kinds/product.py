"""`kind: product`: the product of two numbers."""

from typing import ClassVar, Literal

import numpy as np

from corank.features.feature_kind import FEATURE_KINDS
from corank.features.kinds.scaled import ArithmeticFeature


@FEATURE_KINDS.register("product")
class ProductFeature(ArithmeticFeature):
    """a · b of two numbers; missing if either is, or if the product is not finite."""

    kind: Literal["product"] = "product"

    operation: ClassVar[np.ufunc] = np.multiply
