"""Predicted against observed rates of a stage, bin by bin (a reliability diagram).

Letters: N rows · B bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles

_BINS = 10
BIN_POSITIVES = 10
"""Positives that a bin should have on average: with fewer its rate is mostly noise."""


@dataclass(frozen=True)
class ReliabilityCurve:
    """Bins of equal mass, from the lowest predictions to the highest; all (B,)."""

    predicted: Doubles
    """Mean prediction."""
    observed: Doubles
    """Observed rate."""
    low: Doubles
    """Lower end of the 95 % interval of the observed rate."""
    high: Doubles
    """Upper end."""
    rows: NDArray[np.intp]
    """Rows in the bin."""


def reliability(
    predicted: NDArray[np.floating],
    positive: NDArray[np.bool_],
    weight: NDArray[np.floating],
    bins: int | None = None,
) -> ReliabilityCurve:
    """Compare predictions with what was observed, in bins of equal mass.

    The interval of an observed rate is Jeffreys' (Brown, Cai and DasGupta, Interval Estimation for a Binomial
    Proportion, 2001); weighted rows count in it as (Σ w)² / Σ w² rows of weight 1.

    Args:
        predicted: (N,).
        positive: (N,) bool.
        weight: (N,).
        bins: how many; unless given, as many as leave ten positives to each on average, from 1 to 10.
    """
    order = np.argsort(predicted, kind="stable")
    p, y, w = (column[order].astype(np.float64) for column in (predicted, positive, weight))
    below = np.cumsum(w)
    bins = bins or int(np.clip(y.sum() // BIN_POSITIVES, 1, _BINS))
    starts = np.unique(np.searchsorted(below - w / 2, below[-1] * np.arange(bins) / bins))

    def by_bin(values: Doubles) -> Doubles:
        return np.add.reduceat(values, starts)

    from scipy.special import betaincinv

    mass, rate = by_bin(w), by_bin(w * y) / by_bin(w)
    rows = mass**2 / by_bin(w**2)
    low, high = (betaincinv(rate * rows + 0.5, (1 - rate) * rows + 0.5, part) for part in (0.025, 0.975))
    return ReliabilityCurve(by_bin(w * p) / mass, rate, low, high, np.diff(starts, append=len(p)))
