"""How sure a metric is: users are drawn anew, with replacement, since a user's rows are not independent."""

import numpy as np

from corank.core.types import Doubles
from corank.metrics.measure import Measure

REPLICATES = 200


def replicates(measure: Measure, seed: int = 0, count: int = REPLICATES) -> Doubles:
    """The metric in `count` resamples of its users: (count,), NaN where a resample leaves it undefined.

    Measures over the same users, with the same seed, see the same resamples: the difference of two results is
    that of paired samples.
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
    """The 95 % percentile interval (low, high) of a metric; None where it has no value or a single user."""
    if measure.value() is None or (measure.user == measure.user[0]).all():
        return None
    low, high = np.nanquantile(replicates(measure, seed, count), [0.025, 0.975])
    return float(low), float(high)
