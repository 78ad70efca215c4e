"""`kind: share`: a candidate's part of the sum of a number over all candidates of its request.

Letters: N results.
"""

from typing import Literal

import numpy as np

from corank.core.types import Doubles
from corank.features.feature_kind import FEATURE_KINDS
from corank.features.kinds.within import ComparingFeature
from corank.features.operands import OperandRows
from corank.features.priors import PointInTime


@FEATURE_KINDS.register("share")
class ShareFeature(ComparingFeature):
    """A number of a candidate over the sum of that number of all candidates of the request.

    Numbers below 0 count as missing, since they are no parts of a sum. It is missing, too, where the sum is 0.
    """

    kind: Literal["share"] = "share"

    def derive(self, operands: OperandRows, when: PointInTime) -> Doubles:
        """Shares from 0 to 1, NaN where missing: (N,)."""
        numbers = self.compare(operands, when)
        parts = np.where(numbers.among > 0, numbers.among, 0)
        requests = max(numbers.request.max(initial=-1), numbers.request_of.max(initial=-1)) + 1
        sums = np.bincount(numbers.request_of, parts, requests)[numbers.request]
        whole = sums + numbers.more * numbers.number
        known = (numbers.number >= 0) & (whole > 0)
        return np.where(known, numbers.number / np.where(known, whole, 1), np.nan)
