"""`kind: count`: how often a list holds a value."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS, Use
from corank.features.kinds.scaled import CrossFeature, ScaledFeature
from corank.features.operand_rows import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import Scaling

LIST_AND_VALUE: list[set[Use]] = [{"list"}, {"id", "list"}]
LIST_AND_VALUE_TEXT = "a list or history, then an id or a list"


@FEATURE_KINDS.register("count")
class CountFeature(ScaledFeature, CrossFeature):
    """How often a list holds the value, or the values, of another feature."""

    kind: Literal["count"] = "count"

    default_scale: ClassVar[Scaling] = "log"
    operands_text: ClassVar[str] = LIST_AND_VALUE_TEXT
    compares: ClassVar[bool] = True

    @property
    def operand_uses(self) -> Sequence[Collection[Use]]:
        """A list, then a value or a list."""
        return LIST_AND_VALUE

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Counts (N,)."""
        return operands.count_matches(*self.of)
