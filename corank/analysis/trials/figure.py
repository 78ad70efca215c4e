"""One figure of a trial: a metric's value, with its resamples of the users.

Letters: S seeds · B resamples of the users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.metrics.bootstrap import replicates
from corank.metrics.measure import Measure, RatioMeasure


@dataclass(frozen=True)
class Figure:
    """One figure of a trial, with its resamples."""

    value: float
    n: int
    """Rows, requests or users that count."""
    random: float | None
    """What a random order would have."""
    replicates: list[float | None]
    """The value in each resample of the users, the same in every trial: (B,)."""

    @classmethod
    def of(cls, measure: Measure | None) -> "Figure | None":
        """Compute the figure of a measure; None where it has no value."""
        value = None if measure is None else measure.value()
        if measure is None or value is None:
            return None
        resampled = [None if np.isnan(v) else float(v) for v in replicates(measure)]
        random = measure.random_value() if isinstance(measure, RatioMeasure) else None
        return cls(value, measure.n, random, resampled)


def replicates_of(trials: Sequence[Mapping[str, Figure]], metric: str) -> NDArray[np.float64]:
    """Values of a metric in each resample of the users, by seed: (S, B), NaN where undefined."""
    return np.array([figures[metric].replicates for figures in trials], dtype=np.float64)
