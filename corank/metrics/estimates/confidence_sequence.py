"""Intervals of a difference that hold at every look at the data, so that peeking is safe.

S = N · difference is a sum over the users so far; by the central limit theorem it is near a Brownian motion in its own
variance V. The mixture of likelihood ratios over normal effects, √(ρ / (V + ρ)) · exp(S² / 2(V + ρ)), is a martingale
if there is no difference. By Ville's inequality it ever exceeds 1/α with a probability of α at most, so that

    |S − E S| ≤ √((V + ρ) · ln((V + ρ) / (ρ α²)))     at all times at once, with probability 1 − α.

Sources: Robbins, Statistical Methods Related to the Law of the Iterated Logarithm, 1970; Johari, Pekelis and Walsh,
Always Valid Inference, 2015-2022 (the mixture sequential probability ratio test); Howard, Ramdas, McAuliffe and Sekhon,
Time-uniform, Nonparametric, Nonasymptotic Confidence Sequences, Annals of Statistics 2021; Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, Time-uniform Central Limit Theory, Annals of Statistics 2024 (variances that are estimated).

Users come back, so V is summed over users, not rows. What a user does later goes with what the user did before, so that
S(t) is correlated at least as a Brownian motion of the same variances would be; by Slepian's inequality it crosses the
bound no more often.

Letters: T looks, or whatever shape the arrays have in common.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from corank.core.types import Doubles


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
