"""`kind: product` and `kind: ratio`: the product and the ratio of two numbers."""

from abc import ABC
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np

from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import CrossFeature, ScaledFeature


class ArithmeticFeature(ScaledFeature, CrossFeature, ABC):
    """A number computed from two numbers; missing if either is, or if the result is not finite."""

    operands_text: ClassVar[str] = "two features of kind number or bucket"
    operation: ClassVar[np.ufunc]
    clips: ClassVar[bool] = True
    operand_uses: ClassVar[Sequence[Collection[Use]]] = [{"number"}, {"number"}]

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The result, NaN where it is not finite: (N,)."""
        first, second = (operands.number(name) for name in self.of)
        with np.errstate(all="ignore"):
            result: Doubles = self.operation(first, second)
        return np.where(np.isfinite(result), result, np.nan)


@FEATURE_KINDS.register("product")
class ProductFeature(ArithmeticFeature):
    """a · b of two numbers; missing if either is, or if the product is not finite."""

    kind: Literal["product"] = "product"

    operation: ClassVar[np.ufunc] = np.multiply


@FEATURE_KINDS.register("ratio")
class RatioFeature(ArithmeticFeature):
    """a / b of two numbers; missing if either is, or if the ratio is not finite, as if b is 0."""

    kind: Literal["ratio"] = "ratio"

    operation: ClassVar[np.ufunc] = np.divide
