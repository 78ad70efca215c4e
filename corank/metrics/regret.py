"""Loss by selection bias: a model compared with a reference that was trained without it, on the same rows.

Letters: N rows · U distinct users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Numbers
from corank.metrics.measure import Keys, OrderMeasure, RatioMeasure
from corank.metrics.point import truth_auc


@dataclass(frozen=True)
class PairedDifference:
    """One measure minus another of the same users; both get the same resamples of the users, so they are paired.

    Raises DataError if the two measures are of different users.
    """

    one: OrderMeasure | RatioMeasure
    other: OrderMeasure | RatioMeasure

    def __post_init__(self) -> None:
        if not np.array_equal(self.user, np.unique(self.other.user)):
            raise DataError(
                "a paired difference needs two measures of the same users; these are of different users"
            )

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The difference over the rows of all parts together."""
        return cls(_merged([part.one for part in parts]), _merged([part.other for part in parts]))

    @cached_property
    def user(self) -> Keys:
        """Distinct users, ascending: (U,)."""
        return np.unique(self.one.user)

    @property
    def n(self) -> int:
        """Rows of the second measure."""
        return self.other.n

    def value(self, counts: Doubles | None = None) -> float | None:
        """The first measure's value minus the second's; None if one is not defined."""
        one, other = (
            measure.value(None if counts is None else counts[code])
            for measure, code in zip((self.one, self.other), self._codes, strict=True)
        )
        return None if one is None or other is None else one - other

    def resample(self, code: NDArray[np.intp], counts: NDArray[np.uint8]) -> Doubles:
        """Compute the difference in resamples of the users: (B,)."""
        one, other = (
            measure.resample(code[of_row], counts)
            for measure, of_row in zip((self.one, self.other), self._codes, strict=True)
        )
        return one - other

    @cached_property
    def _codes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The position in `user` of each row's user, in both measures."""
        return np.searchsorted(self.user, self.one.user), np.searchsorted(self.user, self.other.user)


def _merged(parts: Sequence[Any]) -> Any:
    return type(parts[0]).merge(parts)


def bias_regret(
    user: Keys, reference: Numbers, scores: Numbers, truth: Numbers, weight: Numbers | None = None
) -> PairedDifference:
    """AUC of a reference model minus AUC of the model, both on all candidates against known click probabilities.

    The reference has the same form and was trained without selection: on the truth, or on random traffic. Above 0 is
    what the bias costs. The plain difference between AUC on all and on exposed candidates is no measure of bias: the
    two populations are not equally hard, even for a perfect model.

    Args:
        user: (N,).
        reference: the reference's scores: (N,).
        scores: the model's scores: (N,).
        truth: known click probabilities: (N,).
        weight: (N,); 1 unless given.
    """
    return PairedDifference(truth_auc(user, reference, truth, weight), truth_auc(user, scores, truth, weight))
