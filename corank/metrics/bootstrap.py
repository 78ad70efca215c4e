"""Confidence of a metric: users are resampled, since the rows of a user are not independent.

Letters: P parts of a measure · U distinct users · B resamples.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from corank.core.hash_index import splitmix64
from corank.core.types import Doubles
from corank.metrics.measure import Keys, Measure

REPLICATES = 200
"""Resamples of the users."""
_MOST = 16
"""A user counts less often than this in a resample: the chance of more is 1e-14."""


def draw_counts(users: Keys, seed: int = 0, count: int = REPLICATES) -> NDArray[np.uint8]:
    """Draw how often each user counts in each resample, by a Poisson distribution of mean 1: (U,) → (U, B).

    What is drawn depends on the seed, the resample and the user alone. So two measures of the same users get the same
    resamples, even if some users have no rows in one of them, and their differences are paired. Source: Chamandy,
    Muralidharan, Najmi and Naidu, Estimating Uncertainty for Massive Data Streams, 2012.
    """
    return _draw(users.astype(np.int64).tobytes(), seed, count)


@lru_cache(maxsize=4)
def _draw(users: bytes, seed: int, count: int) -> NDArray[np.uint8]:
    """Draw for users, as the bytes of their numbers; metrics of one split mostly have the same users."""
    from scipy.special import pdtr

    user = np.frombuffer(users, dtype=np.int64).view(np.uint64)
    stream = splitmix64(np.arange(count, dtype=np.uint64) + splitmix64(np.array([seed], dtype=np.uint64)))
    edges = (pdtr(np.arange(_MOST - 1), 1.0) * 2.0**32).astype(np.uint64)
    drawn = np.empty((len(user), count), dtype=np.uint8)
    step = 2**14  # users at a time, so that their random numbers stay in the cache
    for begin in range(0, len(user), step):
        mixed = splitmix64(splitmix64(user[begin : begin + step])[:, None] ^ stream)
        drawn[begin : begin + step] = np.searchsorted(edges, mixed >> np.uint64(32), side="right")
    drawn.flags.writeable = False
    return drawn


def replicates(measure: Measure, seed: int = 0, count: int = REPLICATES) -> Doubles:
    """Compute a metric in resamples of its users.

    Returns:
        Values: (B,), NaN where the metric is not defined in a resample.
    """
    users, code = np.unique(measure.user, return_inverse=True)
    return measure.resample(code, draw_counts(users, seed, count))


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
