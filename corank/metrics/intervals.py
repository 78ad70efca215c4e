"""Confidence of a metric by resampled users, and intervals of a difference that hold at every look at the data.

Users are resampled, since the rows of a user are not independent. Of the difference of two versions that are compared
while requests come in, S = N · difference is a sum over the users so far; by the central limit theorem it is near a
Brownian motion in its own variance V. The mixture of likelihood ratios over normal effects, √(ρ / (V + ρ)) ·
exp(S² / 2(V + ρ)), is a martingale if there is no difference. By Ville's inequality it ever exceeds 1/α with a
probability of α at most, so that

    |S − E S| ≤ √((V + ρ) · ln((V + ρ) / (ρ α²)))     at all times at once, with probability 1 − α.

Sources: Robbins, Statistical Methods Related to the Law of the Iterated Logarithm, 1970; Johari, Pekelis and Walsh,
Always Valid Inference, 2015-2022 (the mixture sequential probability ratio test); Howard, Ramdas, McAuliffe and Sekhon,
Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences, Annals of Statistics 2021; Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, Time-uniform Central Limit Theory, Annals of Statistics 2024 (variances that are estimated).

Users come back, so V is summed over users, not rows. What a user does later goes with what the user did before, so that
S(t) is correlated at least as a Brownian motion of the same variances would be; by Slepian's inequality it crosses the
bound no more often.

Letters: U distinct users · B resamples · T looks, or whatever shape the arrays have in common.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

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
    return percentiles(replicates(measure, seed, count))


def percentiles(replicates: Doubles) -> tuple[float, float] | None:
    """The 95 % percentile interval of resamples, without those that are NaN; None if all are."""
    if np.isnan(replicates).all():
        return None
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class ConfidenceSequence:
    """The interval of a difference, and a p-value, at each look: (T,)."""

    difference: Doubles
    radius: Doubles
    """Half the width of the interval; infinite while there is too little data."""
    p: Doubles
    """Always valid: its minimum over all looks is at most α with probability α if there is no difference."""

    @classmethod
    def of(
        cls,
        difference: Doubles,
        variance: Doubles,
        count: Doubles,
        spread: Doubles,
        effect: Doubles,
        enough: Doubles,
        alpha: float = 0.05,
    ) -> Self:
        """Compute the intervals.

        Args:
            difference: as estimated: (T,).
            variance: of the estimate, users being independent: (T,).
            count: number of rows, N: (T,).
            spread: N times the variance that the estimate would have if rows were independent: (T,).
            effect: about how large a difference is looked for; intervals are narrowest where one of its size shows:
                (T,). Whatever it is, the intervals hold.
            enough: whether there is so much data that sums are near to normal: (T,).
            alpha: probability that any look's interval misses the true difference.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            passed = count**2 * variance
            prior = (spread / effect) ** 2
            total = passed + prior
            radius = np.sqrt(total * np.log(total / (prior * alpha**2))) / count
            ratio = 0.5 * np.log(prior / total) + (count * difference) ** 2 / (2 * total)
        known = enough.astype(bool) & np.isfinite(radius) & (passed > 0)
        p = np.where(known, np.exp(-np.clip(np.where(known, ratio, 0.0), 0.0, 700.0)), 1.0)
        return cls(difference, np.where(known, radius, np.inf), p)
