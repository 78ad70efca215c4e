"""What selection bias costs: a model beside a reference that does not suffer from it, on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Numbers
from corank.metrics.measure import Keys, Ordered, Ratio
from corank.metrics.point import truth_auc


@dataclass(frozen=True)
class Difference:
    """One measure less another of the same users; a resample counts a user as often in both, so they are paired."""

    one: Ordered | Ratio
    other: Ordered | Ratio

    def __post_init__(self) -> None:
        if not np.array_equal(self.user, np.unique(self.other.user)):
            raise DataError("a paired difference needs two measures of the same users; these are of others")

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """The difference over all parts' rows together, as if they had come in one."""
        return cls(_merged([part.one for part in parts]), _merged([part.other for part in parts]))

    @cached_property
    def user(self) -> Keys:
        """(U,) distinct, ascending"""
        return np.unique(self.one.user)

    @property
    def n(self) -> int:
        return self.other.n

    def value(self, times: Doubles | None = None) -> float | None:
        one, other = (
            measure.value(None if times is None else times[code])
            for measure, code in zip((self.one, self.other), self._codes, strict=True)
        )
        return None if one is None or other is None else one - other

    @cached_property
    def _codes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where each row's user lies in `user`."""
        return np.searchsorted(self.user, self.one.user), np.searchsorted(self.user, self.other.user)


def _merged(parts: Sequence[Any]) -> Any:
    return type(parts[0]).merged(parts)


def bias_regret(
    user: Keys, reference: Numbers, scores: Numbers, truth: Numbers, weight: Numbers | None = None
) -> Difference:
    """AUC on all candidates (N,) of a `reference` model's scores, less that of the model's `scores`.

    The reference has the same form and was trained without selection: on the truth, or on random traffic. AUC is
    `truth_auc`, against known click probabilities. Above 0: what the bias costs. The plain difference between the AUC
    on all and on exposed candidates says little, since the two populations are unequally hard for a perfect model, too.
    """
    return Difference(truth_auc(user, reference, truth, weight), truth_auc(user, scores, truth, weight))
