"""Confidence of a metric: users are resampled with replacement, since the rows of a user are not independent."""

import numpy as np

from corank.core.types import Doubles
from corank.metrics.measure import Measure

REPLICATES = 200
"""Resamples of the users."""


def replicates(measure: Measure, seed: int = 0, count: int = REPLICATES) -> Doubles:
    """Compute a metric in resamples of its users.

    Measures of the same users get the same resamples from the same seed, so the difference of two results is that of
    paired samples. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    Returns:
        Values: (count,), NaN where the metric is not defined in a resample.
    """
    users, code = np.unique(measure.user, return_inverse=True)
    generator = np.random.default_rng(seed)
    values = np.full(count, np.nan)
    for index in range(count if len(users) else 0):
        drawn = np.bincount(generator.integers(len(users), size=len(users)), minlength=len(users))
        value = measure.value(drawn.astype(np.float64)[code])
        values[index] = np.nan if value is None else value
    return values


def interval(measure: Measure, seed: int = 0, count: int = REPLICATES) -> tuple[float, float] | None:
    """Compute the 95 % percentile interval (low, high) of a metric; None if it has no value or a single user.

    Example:
        >>> interval(auc(user, scores, labels))
        (0.71, 0.74)
    """
    if measure.value() is None or (measure.user == measure.user[0]).all():
        return None
    low, high = np.nanquantile(replicates(measure, seed, count), [0.025, 0.975])
    return float(low), float(high)
