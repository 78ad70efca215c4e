"""Numbers that must be equal however they are computed: rows of how far apart they are, and how many are too far.

They have no intervals: chance has no part in them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from corank.core.types import Doubles
from corank.evaluation.rows import AGREEMENT, Row, place


def gaps(found: ArrayLike, wanted: ArrayLike) -> Doubles:
    """How far numbers are from those that are wanted, relative to them beyond 1.

    Returns:
        Differences: infinite where one alone is a finite number, 0 where neither is.
    """
    ours, theirs = (np.asarray(one, dtype=np.float64) for one in (found, wanted))
    known = np.isfinite(ours), np.isfinite(theirs)
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))
    return np.where(known[0] & known[1], apart, np.where(known[0] | known[1], np.inf, 0.0))


@dataclass
class _Compared:
    """Numbers of one kind that were compared."""

    tolerance: float
    n: int = 0
    differ: int = 0
    finite: float | None = None
    """The largest difference of two numbers."""
    most: float = 0.0
    """The largest difference, infinite if only one side has a number, and where it is; "" if all are equal."""
    where: str = ""


class Agreement:
    """Numbers that were computed twice, by stage and metric."""

    def __init__(self) -> None:
        self._compared: dict[tuple[str, str], _Compared] = {}

    def add(self, stage: str, metric: str, apart: Doubles, tolerance: float, where: str) -> None:
        """Count numbers that are so far apart.

        Args:
            stage: whose numbers they are; "" for none.
            metric: what they are.
            apart: as `gaps` says.
            tolerance: the largest difference that is allowed.
            where: what they are of, such as a request.
        """
        one = self._compared.setdefault((stage, metric), _Compared(tolerance))
        one.n += len(apart)
        one.differ += int(np.count_nonzero(apart > tolerance))
        if len(finite := apart[np.isfinite(apart)]):
            one.finite = max(one.finite or 0.0, float(finite.max()))
        if (most := float(apart.max(initial=0.0))) > one.most:
            one.most, one.where = most, where

    @property
    def rows(self) -> list[Row]:
        """A row a stage and metric: `value` is the largest difference of two numbers."""
        return [
            {
                **place(stage, "", AGREEMENT, "", metric),
                "value": one.finite,
                "n": one.n,
                "margin": one.tolerance,
                "verdict": "differs" if one.differ else "agrees",
                "differ": one.differ,
                "where": one.where,
            }
            for (stage, metric), one in self._compared.items()
        ]

    @property
    def largest(self) -> float:
        """The largest difference of two numbers."""
        return max((one.finite or 0.0 for one in self._compared.values()), default=0.0)

    @property
    def reasons(self) -> list[str]:
        """What differs, a line each; also if nothing was compared."""
        if not any(one.n for one in self._compared.values()):
            return ["nothing could be compared"]
        return [
            f"{' '.join(filter(None, name))}: {one.differ:,} of {one.n:,} differ by more than {one.tolerance:.2g}, "
            f"most in {one.where}, by {one.most:.2g}"
            for name, one in self._compared.items()
            if one.differ
        ]
