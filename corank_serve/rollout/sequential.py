"""Means of served requests compared at every look: of two arms, or of paired differences, with users as clusters.

A comparison of arms is valid if users were assigned to them as the share says. The share of users is tested by a
mixture of likelihood ratios over binomial shares, with a beta prior around the share that was set: a martingale if
users are assigned so. By Ville's inequality its inverse is a p-value that holds at every look. Source: Lindon and
Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022.

Letters: N rows · U users · T looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from corank.core.types import Doubles, Longs, Mask
from corank.evaluation.rows import judge
from corank.metrics.intervals import ConfidenceSequence

LOOKS = 24
"""Moments at which the interval is computed."""
ENOUGH_USERS = 50
"""Users of each arm that must have a value other than 0 before a verdict."""
NORMAL = 1.959964
"""Quantile of the normal distribution for 95 %."""
EARLY = "too early"
"""The verdict while there is too little data."""


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
    """Two means after some of the rows, their difference, and what it is known by."""

    a: float
    b: float
    n: int
    n_b: int
    rows: int
    difference: float
    variance: float
    spread: float
    level: float
    """The value that the looked-for effect is a share of."""
    users: int


def compare_arms(
    time: Longs, user: Longs, is_a: Mask, values: Doubles, test: SequentialTest, better: str = "higher"
) -> list[dict[str, Any]]:
    """Compare the mean of a with that of b, look by look.

    Args:
        time: ms UTC, ascending: (N,).
        user: code of each row's user: (N,).
        is_a: whether a row is of a: (N,).
        values: (N,).
        test: how.
        better: `higher` or `lower`.

    Returns a row of the table of figures a look, whose group is its moment, and at last the one of all rows.
    """
    users, looks = int(user.max(initial=-1)) + 1, list[_Look]()
    for end in look_ends(len(time)):
        rows, codes, side = values[:end], user[:end], is_a[:end]
        a, b = (ArmMean.of(rows[own], codes[own], users) for own in (side, ~side))
        level = abs((a.mean * a.rows + b.mean * b.rows) / end)
        known_by = a.variance + b.variance, a.spread + b.spread, level, min(a.users, b.users)
        looks.append(_Look(a.mean, b.mean, a.rows, b.rows, end, a.mean - b.mean, *known_by))
    return _rows(looks, time, test, better)


def compare_pairs(
    time: Longs, user: Longs, a: Doubles, b: Doubles, test: SequentialTest, better: str = "higher"
) -> list[dict[str, Any]]:
    """Compare two values of the same rows, look by look; arguments and rows as of `compare_arms`: (N,)."""
    users, looks = int(user.max(initial=-1)) + 1, list[_Look]()
    for end in look_ends(len(time)):
        gap = ArmMean.of(a[:end] - b[:end], user[:end], users)
        known_by = gap.variance, gap.spread, float(np.abs(b[:end]).mean()), gap.users
        one, other = float(a[:end].mean()), float(b[:end].mean())
        looks.append(_Look(one, other, end, end, end, gap.mean, *known_by))
    return _rows(looks, time, test, better)


def look_ends(rows: int) -> list[int]:
    """Numbers of rows after which is looked."""
    ends: list[int] = np.unique(np.linspace(0, rows, min(LOOKS, rows) + 1).astype(np.int64)[1:]).tolist()
    return ends


def _rows(looks: Sequence[_Look], time: Longs, test: SequentialTest, better: str) -> list[dict[str, Any]]:
    empty = dict.fromkeys(("a", "b", "difference", "low", "high"))
    if not looks:
        return [{"group": "", **empty, "better": better, "verdict": EARLY}]
    *_, rows, difference, variance, spread, level, users = np.array(looks, dtype=np.float64).T
    sequence = ConfidenceSequence.of(
        difference, variance, rows, rows * spread, test.effect * level, users >= ENOUGH_USERS, test.alpha
    )
    moments = pl.Series(time[rows.astype(np.int64) - 1]).cast(pl.Datetime("ms"))
    found = [
        {
            "group": moment.isoformat(timespec="seconds"),
            "a": look.a,
            "b": look.b,
            "difference": look.difference,
            **_bounds(look.difference, radius),
            "n": look.n,
            "n_b": look.n_b,
            "better": better,
        }
        for look, moment, radius in zip(looks, moments, sequence.radius.tolist(), strict=True)
    ]
    judged = [{**row, "verdict": _verdict(row["low"], row["high"], better)} for row in found]
    fixed = _bounds(difference[-1], NORMAL * np.sqrt(variance[-1]), "fixed_")
    return [*judged, {**judged[-1], "group": "", "p": float(sequence.p.min()), **fixed}]


def _verdict(low: float | None, high: float | None, better: str) -> str:
    """The verdict on a, by an interval of a minus b."""
    if low is None or high is None:
        return EARLY
    return judge(low, high) if better == "higher" else judge(-high, -low)


def _bounds(difference: float, radius: float, prefix: str = "") -> dict[str, float | None]:
    """The bounds of a difference; None for those that are not finite."""
    ends = {"low": difference - radius, "high": difference + radius}
    return {prefix + name: float(end) if np.isfinite(end) else None for name, end in ends.items()}


CONCENTRATION = 1000.0
"""Weight of the prior in users: differences of a seventh of a share of 5 % are detected soonest."""
MISMATCH = 0.001
"""The p-value below which users were not assigned as the share says: chance does it in one of a thousand splits."""


def check_share(has_a: Mask, share: float) -> dict[str, Any]:
    """Test the share of users that had a, look by look.

    Args:
        has_a: whether a user had a, in the order in which users came: (U,).
        share: of users that were to have it.
    """
    assigned = np.cumsum(has_a)
    evidence = (_log_ratio(int(assigned[end - 1]), end, share) for end in look_ends(len(has_a)))
    p = exp(-max([0.0, *evidence]))
    return {
        "expected": share,
        "observed": float(has_a.mean()) if len(has_a) else None,
        "users": len(has_a),
        "p": p,
        "mismatch": p < MISMATCH,
    }


def _log_ratio(having: int, users: int, share: float) -> float:
    """The logarithm of the mixture's likelihood over that of the share, of so many of the users."""
    a, b, others = CONCENTRATION * share, CONCENTRATION * (1 - share), users - having
    mixture = _log_beta(a + having, b + others) - _log_beta(a, b)
    return mixture - having * log(share) - others * log(1 - share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
