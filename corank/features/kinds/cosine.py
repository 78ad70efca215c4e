"""`kind: cosine`: how alike the directions of two vectors are.

Letters: N results · d dimension.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np

from corank.core.errors import ConfigError
from corank.core.ragged import Vectors
from corank.core.types import Doubles, Floats, Index
from corank.features.feature_kind import FEATURE_KINDS, FeatureSet, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import CrossFeature, ScaledFeature

BLOCK = 16_384
"""Results that are computed at once."""


@FEATURE_KINDS.register("cosine")
class CosineFeature(ScaledFeature, CrossFeature):
    """⟨a, b⟩ / (|a|·|b|) of two vectors, −1 to 1; missing if either is.

    `HISTORY.FEATURE` is the mean of the vectors that the items of a history have.
    """

    kind: Literal["cosine"] = "cosine"

    operands_text: ClassVar[str] = "two features of kind vector, or the `HISTORY.FEATURE` of one"
    operand_uses: ClassVar[Sequence[Collection[Use]]] = [{"vector"}, {"vector"}]

    def check(self, name: str, schema: FeatureSet) -> None:
        """Raise ConfigError unless both are vectors of one dimension."""
        super().check(name, schema)
        first, second = (schema.features[schema.of_items(n) or n].vector.dimension for n in self.of)
        if first != second:
            raise ConfigError(
                f"features.{name}.of: a cosine is of vectors of one dim; '{self.of[0]}' has {first}, "
                f"'{self.of[1]}' has {second}"
            )

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """The cosines, NaN where a vector is missing: (N,)."""
        (first, of_first), (second, of_second) = (operands.vectors(name) for name in self.of)
        cosines = np.empty(operands.count)
        for begin in range(0, operands.count, BLOCK):
            rows = slice(begin, begin + BLOCK)
            cosines[rows] = _cosines(first, of_first[rows], second, of_second[rows])
        return cosines


def _cosines(first: Vectors, of_first: Index, second: Vectors, of_second: Index) -> Floats:
    """The cosines of pairs of vectors: (N,)."""
    a, b = first.take(of_first), second.take(of_second)
    # each row by itself, so that a number does not depend on how many are computed together; in 64 bits, so that 32 of
    # them do not depend on the order of the sums, which other readers of a bundle choose otherwise
    x, y = a.dense().astype(np.float64), b.dense().astype(np.float64)
    product = np.einsum("nd,nd->n", x, y)
    squares = np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y)
    missing = (a.row < 0) | (b.row < 0) | (squares == 0)
    cosines: Floats = (product / np.sqrt(np.where(missing, 1, squares))).astype(np.float32)
    cosines[missing] = np.nan
    return cosines
