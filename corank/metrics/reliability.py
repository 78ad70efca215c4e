"""What a stage promised, and what came of it: predicted and observed rates, bin by bin.

Letters: N rows · B bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from corank.core.types import Doubles

BINS = 10
BIN_POSITIVES = 10
"""Fewer positives a bin than so many, and its rate is mostly noise."""


@dataclass(frozen=True)
class Reliability:
    """Bins of equal mass, from the lowest predictions to the highest; each (B,)."""

    predicted: Doubles
    """Mean prediction."""
    observed: Doubles
    low: Doubles
    """Of the observed rate's 95 % interval, as is `high`."""
    high: Doubles
    rows: NDArray[np.intp]


def reliability(
    predicted: NDArray[np.floating],
    positive: NDArray[np.bool_],
    weight: NDArray[np.floating],
    bins: int | None = None,
) -> Reliability:
    """Mean prediction and observed rate, with a 95 % Jeffreys interval, in bins of equal mass of rows (N,).

    As many bins as leave ten positives to each on average, at least one and at most ten, unless given. Weighted rows
    count in the interval as (Σ w)² / Σ w² rows of weight 1.
    """
    order = np.argsort(predicted, kind="stable")
    p, y, w = (column[order].astype(np.float64) for column in (predicted, positive, weight))
    below = np.cumsum(w)
    bins = bins or int(np.clip(y.sum() // BIN_POSITIVES, 1, BINS))
    starts = np.unique(np.searchsorted(below - w / 2, below[-1] * np.arange(bins) / bins))

    def by_bin(values: Doubles) -> Doubles:
        return np.add.reduceat(values, starts)

    mass, rate = by_bin(w), by_bin(w * y) / by_bin(w)
    rows = mass**2 / by_bin(w**2)
    low, high = beta.interval(0.95, rate * rows + 0.5, (1 - rate) * rows + 0.5)
    return Reliability(by_bin(w * p) / mass, rate, low, high, np.diff(starts, append=len(p)))
