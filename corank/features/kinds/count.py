"""`kind: count`: how often a list holds a value.

`kind: contains`: whether a list holds a value.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np

from corank.core.types import Doubles, Hashes
from corank.features.encoding import Column, Encoder
from corank.features.feature_kind import FEATURE_KINDS, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import CrossFeature, Scale, ScaledFeature, Scaling
from corank.features.training_values import TrainingValues

LIST_AND_VALUE: list[set[Use]] = [{"list"}, {"id", "list"}]
LIST_AND_VALUE_TEXT = "a list or history, then an id or a list"


@FEATURE_KINDS.register("count")
class CountFeature(ScaledFeature, CrossFeature):
    """How often a list holds the value, or the values, of another feature."""

    kind: Literal["count"] = "count"

    default_scale: ClassVar[Scaling] = "log"
    operands_text: ClassVar[str] = LIST_AND_VALUE_TEXT
    compares: ClassVar[bool] = True
    operand_uses: ClassVar[Sequence[Collection[Use]]] = LIST_AND_VALUE

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Counts (N,)."""
        return operands.count_matches(*self.of)


@FEATURE_KINDS.register("contains")
class ContainsFeature(CrossFeature):
    """1 where a list holds the value, or one of the values, of another feature, else 0."""

    kind: Literal["contains"] = "contains"

    encoders: ClassVar[tuple[type[Encoder], ...]] = (Scale,)
    operands_text: ClassVar[str] = LIST_AND_VALUE_TEXT
    compares: ClassVar[bool] = True
    operand_uses: ClassVar[Sequence[Collection[Use]]] = LIST_AND_VALUE

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """0 or 1: (N,)."""
        return (operands.count_matches(*self.of) > 0).astype(np.float64)

    def fit(self, values: TrainingValues) -> Encoder:
        """Nothing is learnt: the number stays as it is."""
        return Scale("none")

    def encode(self, encoder: Encoder | None, values: Hashes | Doubles) -> Column:
        """0 or 1: (N,)."""
        assert isinstance(encoder, Scale)
        return encoder.scale(values.astype(np.float64, copy=False))
