"""Means of served requests compared at every look: of two arms, or of paired differences, with users as clusters.

Letters: N rows · U users · T looks.

Whether users were assigned to a canary as its share says; otherwise a comparison is not valid.

The share of users is tested by a mixture of likelihood ratios over binomial shares, with a beta prior around the share
that was set: a martingale if users are assigned so. By Ville's inequality its inverse is a p-value that holds at every
look. Source: Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022.

Letters: U users · T looks.
"""

from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any

import numpy as np
import polars as pl

from corank.core.types import Doubles, Longs, Mask
from corank.metrics.intervals import ConfidenceSequence

LOOKS = 24
"""Moments at which the interval is computed."""
ENOUGH_USERS = 50
"""Users of each arm that must have a value other than 0 before a verdict."""
NORMAL = 1.959964
"""Quantile of the normal distribution for 95 %."""
NONE, EARLY = "no difference shown", "too early"


@dataclass(frozen=True)
class SequentialTest:
    """The settings of a test of differences while data arrive."""

    alpha: float = 0.05
    """Probability that the interval of any look misses the true difference."""
    effect: float = 0.02
    """About how large a difference is looked for, as a share of the value."""


@dataclass(frozen=True)
class ArmMean:
    """The mean of an arm and what it is known by, at one look."""

    mean: float
    rows: int
    variance: float
    """Of the mean, users being independent."""
    spread: float
    """Of the mean, if rows were independent."""
    users: int
    """Users with a value other than 0."""

    @classmethod
    def of(cls, values: Doubles, user: Longs, users: int) -> "ArmMean":
        """Compute it: values and codes of users, of which there are `users`: (N,)."""
        rows = len(values)
        if rows < 2:
            return cls(0.0, rows, np.nan, np.nan, 0)
        mean = float(values.mean())
        of_user = np.bincount(user, minlength=users)
        sums = np.bincount(user, weights=values, minlength=users)
        there = int((of_user > 0).sum())
        residual = sums - mean * of_user
        clustered = float(residual @ residual) / rows**2 * there / max(1, there - 1)
        return cls(mean, rows, clustered, float(values.var()) / rows, int((sums != 0).sum()))


def compare_arms(
    time: Longs, user: Longs, is_a: Mask, values: Doubles, test: SequentialTest, higher: bool = True
) -> dict[str, Any]:
    """Compare the mean of a with that of b, look by look.

    Args:
        time: ms UTC, ascending: (N,).
        user: code of each row's user: (N,).
        is_a: whether a row is of a: (N,).
        values: (N,).
        test: how.
        higher: whether higher is better.
    """
    users = int(user.max(initial=-1)) + 1
    ends = look_ends(len(time))
    arms = [
        [ArmMean.of(values[:end][side[:end]], user[:end][side[:end]], users) for side in (is_a, ~is_a)]
        for end in ends
    ]
    a, b = ([pair[n] for pair in arms] for n in (0, 1))
    count = np.array([one.rows + other.rows for one, other in arms], dtype=np.float64)
    pooled = np.array([(o.mean * o.rows + t.mean * t.rows) / max(1, o.rows + t.rows) for o, t in arms])
    sequence = ConfidenceSequence.of(
        np.array([one.mean - other.mean for one, other in arms]),
        np.array([one.variance + other.variance for one, other in arms]),
        count,
        count * np.array([one.spread + other.spread for one, other in arms]),
        test.effect * np.abs(pooled),
        np.array([min(one.users, other.users) >= ENOUGH_USERS for one, other in arms]),
        test.alpha,
    )
    facts = {"a": a[-1].mean, "b": b[-1].mean, "rows_a": a[-1].rows, "rows_b": b[-1].rows} if arms else {}
    variance = a[-1].variance + b[-1].variance if arms else np.nan
    return facts | _document(sequence, time[ends - 1], variance, higher)


def compare_pairs(
    time: Longs, user: Longs, a: Doubles, b: Doubles, test: SequentialTest, higher: bool
) -> dict[str, Any]:
    """Compare two values of the same rows, look by look; arguments as in `compare_arms`: (N,)."""
    users, ends = int(user.max(initial=-1)) + 1, look_ends(len(time))
    means = [ArmMean.of(a[:end] - b[:end], user[:end], users) for end in ends]
    count = ends.astype(np.float64)
    level = np.array([np.abs(b[:end]).mean() for end in ends])
    sequence = ConfidenceSequence.of(
        np.array([one.mean for one in means]),
        np.array([one.variance for one in means]),
        count,
        count * np.array([one.spread for one in means]),
        test.effect * level,
        np.array([one.users >= ENOUGH_USERS for one in means]),
        test.alpha,
    )
    facts = {"a": float(a.mean()), "b": float(b.mean()), "rows": len(a)} if len(ends) else {}
    return facts | _document(sequence, time[ends - 1], means[-1].variance if means else np.nan, higher)


def look_ends(rows: int) -> Longs:
    """Numbers of rows after which is looked: (T,)."""
    return np.unique(np.linspace(0, rows, min(LOOKS, rows) + 1).astype(np.int64)[1:])


def _document(sequence: ConfidenceSequence, moments: Longs, variance: float, higher: bool) -> dict[str, Any]:
    looks = [
        {"until": _format(moment), "difference": float(d), "low": _bound(d - r), "high": _bound(d + r)}
        for moment, d, r in zip(moments, sequence.difference, sequence.radius, strict=True)
    ]
    if not looks:
        return {"difference": None, "low": None, "high": None, "verdict": EARLY, "looks": []}
    difference, radius = float(sequence.difference[-1]), float(sequence.radius[-1])
    low, high = _bound(difference - radius), _bound(difference + radius)
    half = NORMAL * float(np.sqrt(variance))
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p": float(sequence.p.min()),
        "fixed_low": _bound(difference - half),
        "fixed_high": _bound(difference + half),
        "verdict": _verdict(low, high, higher),
        "looks": looks,
    }


def _verdict(low: float | None, high: float | None, higher: bool) -> str:
    """The verdict on a, by an interval of a minus b."""
    if low is None or high is None:
        return EARLY
    if low <= 0 <= high:
        return NONE
    return "better" if (low > 0) == higher else "worse"


def _bound(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _format(moment: int) -> str:
    return str(pl.Series([int(moment)]).cast(pl.Datetime("ms"))[0].isoformat(timespec="seconds"))


CONCENTRATION = 1000.0
"""Weight of the prior in users: differences of a seventh of a share of 5 % are detected soonest."""
MISMATCH = 0.001
"""The p-value below which users were not assigned as the share says: chance does it in one of a thousand canaries."""


def check_share(is_canary: Mask, share: float) -> dict[str, Any]:
    """Test the share of users that a canary had, look by look.

    Args:
        is_canary: whether a user had the canary, in the order in which users came: (U,).
        share: of users that it was to have.
    """
    assigned = np.cumsum(is_canary)
    evidence = [_log_ratio(int(assigned[end - 1]), int(end), share) for end in look_ends(len(is_canary))]
    p = exp(-max([0.0, *evidence]))
    return {
        "expected": share,
        "observed": float(is_canary.mean()) if len(is_canary) else None,
        "users": len(is_canary),
        "p": p,
        "mismatch": p < MISMATCH,
    }


def _log_ratio(canary: int, users: int, share: float) -> float:
    """The logarithm of the mixture's likelihood over that of the share, of so many of the users."""
    a, b, live = CONCENTRATION * share, CONCENTRATION * (1 - share), users - canary
    mixture = _log_beta(a + canary, b + live) - _log_beta(a, b)
    return mixture - canary * log(share) - live * log(1 - share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
