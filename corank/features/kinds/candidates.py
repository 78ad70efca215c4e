"""`kind: candidates`: how many candidates a request has."""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Literal

import numpy as np

from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS, Side, Use
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime
from corank.features.scale import ScaledFeature, Scaling


@FEATURE_KINDS.register("candidates")
class CandidatesFeature(ScaledFeature):
    """The number of candidates of a request: of the log's, or of those that it gives or asks to retrieve."""

    kind: Literal["candidates"] = "candidates"

    default_scale: ClassVar[Scaling] = "log"
    counts_candidates: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    operands: ClassVar[Sequence[str]] = ()
    operand_uses: ClassVar[Sequence[Collection[Use]]] = ()
    made_of: ClassVar[str] = "the request"

    def side_among(self, side_of: Callable[[str], Side]) -> Side:
        """The context's."""
        return "context"

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Numbers of candidates (N,)."""
        assert when.sizes is not None
        return when.sizes.astype(np.float64)
