"""`kind: product`: the product of two numbers."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np

from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS, Use
from corank.features.kinds.scaled import CrossFeature, ScaledFeature
from corank.features.operand_rows import OperandRows
from corank.features.priors import PointInTime


@FEATURE_KINDS.register("product")
class ProductFeature(ScaledFeature, CrossFeature):
    """a · b of two numbers, missing if either is, or where it is no finite number."""

    kind: Literal["product"]

    operands_text: ClassVar[str] = "two features of kind number or bucket"

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """Two numbers."""
        return [{"number"}, {"number"}]

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The product, NaN where it is not finite: (N,)."""
        first, second = self.of
        with np.errstate(all="ignore"):
            found = np.multiply(operands.number(first), operands.number(second))
        return np.where(np.isfinite(found), found, np.nan)
