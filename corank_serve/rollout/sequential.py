"""Means of served requests compared at every look: of two arms, or of paired differences, with users as clusters.

A comparison is valid if users were assigned to a canary as its share says. The share of users is tested by a mixture of
likelihood ratios over binomial shares, with a beta prior around the share that was set: a martingale if users are
assigned so. By Ville's inequality its inverse is a p-value that holds at every look. Source: Lindon and Malek,
Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022.

Letters: N rows · U users · T looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any, NamedTuple

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


class _Look(NamedTuple):
    """A difference after some of the rows, and what it is known by."""

    rows: int
    difference: float
    variance: float
    spread: float
    level: float
    """The value that the looked-for effect is a share of."""
    users: int


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
    users, facts, looks = int(user.max(initial=-1)) + 1, dict[str, Any](), list[_Look]()
    for end in look_ends(len(time)):
        rows, codes, side = values[:end], user[:end], is_a[:end]
        a, b = (ArmMean.of(rows[own], codes[own], users) for own in (side, ~side))
        level = abs((a.mean * a.rows + b.mean * b.rows) / end)
        variance, spread, enough = a.variance + b.variance, a.spread + b.spread, min(a.users, b.users)
        looks.append(_Look(end, a.mean - b.mean, variance, spread, level, enough))
        facts = {"a": a.mean, "b": b.mean, "n": a.rows, "n_b": b.rows}
    return facts | _document(looks, time, test, higher)


def compare_pairs(
    time: Longs, user: Longs, a: Doubles, b: Doubles, test: SequentialTest, higher: bool
) -> dict[str, Any]:
    """Compare two values of the same rows, look by look; arguments as in `compare_arms`: (N,)."""
    users, looks = int(user.max(initial=-1)) + 1, list[_Look]()
    for end in look_ends(len(time)):
        gap = ArmMean.of(a[:end] - b[:end], user[:end], users)
        level = np.abs(b[:end]).mean()
        looks.append(_Look(end, gap.mean, gap.variance, gap.spread, level, gap.users))
    facts = {"a": float(a.mean()), "b": float(b.mean()), "n": len(a), "n_b": len(b)} if looks else {}
    return facts | _document(looks, time, test, higher)


def look_ends(rows: int) -> Longs:
    """Numbers of rows after which is looked: (T,)."""
    return np.unique(np.linspace(0, rows, min(LOOKS, rows) + 1).astype(np.int64)[1:])


def _document(looks: Sequence[_Look], time: Longs, test: SequentialTest, higher: bool) -> dict[str, Any]:
    if not looks:
        return {"difference": None, "low": None, "high": None, "verdict": EARLY, "looks": []}
    rows, difference, variance, spread, level, users = np.array(looks, dtype=np.float64).T
    sequence = ConfidenceSequence.of(
        difference, variance, rows, rows * spread, test.effect * level, users >= ENOUGH_USERS, test.alpha
    )
    moments = pl.Series(time[rows.astype(np.int64) - 1]).cast(pl.Datetime("ms"))
    shown = [
        {"until": moment.isoformat(timespec="seconds"), **_interval(*interval)}
        for moment, *interval in zip(moments, difference, sequence.radius, strict=True)
    ]
    last = _interval(difference[-1], sequence.radius[-1])
    fixed = _interval(difference[-1], NORMAL * np.sqrt(variance[-1]))
    return {
        **last,
        "p": float(sequence.p.min()),
        "fixed_low": fixed["low"],
        "fixed_high": fixed["high"],
        "verdict": _verdict(last["low"], last["high"], higher),
        "looks": shown,
    }


def _interval(difference: float, radius: float) -> dict[str, Any]:
    """A difference with its bounds; None for those that are not finite."""
    bounds = (float(one) if np.isfinite(one) else None for one in (difference - radius, difference + radius))
    return {"difference": float(difference), **dict(zip(("low", "high"), bounds, strict=True))}


def _verdict(low: float | None, high: float | None, higher: bool) -> str:
    """The verdict on a, by an interval of a minus b."""
    if low is None or high is None:
        return EARLY
    if low <= 0 <= high:
        return NONE
    return "better" if (low > 0) == higher else "worse"


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
    ends = look_ends(len(is_canary))
    assigned = np.cumsum(is_canary)[ends - 1]
    evidence = (_log_ratio(int(n), int(end), share) for n, end in zip(assigned, ends, strict=True))
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
