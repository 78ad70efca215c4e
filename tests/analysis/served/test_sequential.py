"""Peeking is safe: an interval over time misses a true difference in no more than its share of experiments."""

import numpy as np
import pytest

from corank.core.types import Doubles, Longs, Mask
from corank_serve.rollout.sequential import (
    EARLY,
    ArmMean,
    SequentialTest,
    compare_arms,
    compare_pairs,
)

EXPERIMENTS, USERS, ROWS = 120, 1500, 12_000


def experiment(rng: np.random.Generator, lift: float = 1.0) -> tuple[Longs, Longs, Mask, Doubles]:
    """Clicks of returning users, each with a rate of its own, assigned by user."""
    user = np.minimum(rng.exponential(USERS / 4, ROWS).astype(np.int64), USERS - 1)
    is_a = rng.random(USERS) < 0.3
    rate = rng.beta(1.5, 10, USERS) * np.where(is_a, lift, 1.0)
    clicked = (rng.random(ROWS) < rate[user]).astype(np.float64)
    return np.arange(ROWS, dtype=np.int64), user, is_a[user], clicked


@pytest.mark.slow
def test_who_looks_all_the_time_is_misled_no_more_often_than_agreed() -> None:
    rng, test = np.random.default_rng(1), SequentialTest(alpha=0.05, effect=0.1)
    misled = fixed = 0
    for _ in range(EXPERIMENTS):
        time, user, is_a, clicked = experiment(rng)
        *looks, _ = compare_arms(time, user, is_a, clicked, test)
        known = [one for one in looks if one["low"] is not None]
        assert len(known) > 10
        misled += any(one["low"] > 0 or one["high"] < 0 for one in known)
        fixed += any(
            _excludes_zero(user[:end], is_a[:end], clicked[:end]) for end in range(3000, ROWS + 1, 1500)
        )
    assert misled <= 0.05 * EXPERIMENTS < fixed


def _excludes_zero(user: Longs, is_a: Mask, clicked: Doubles) -> bool:
    """Whether the interval for one look, at a time fixed ahead, excludes 0."""
    a, b = (ArmMean.of(clicked[side], user[side], USERS) for side in (is_a, ~is_a))
    return bool(abs(a.mean - b.mean) > 1.96 * (a.variance + b.variance) ** 0.5)


def test_a_difference_is_found_and_its_direction_told() -> None:
    rng, test = np.random.default_rng(3), SequentialTest(effect=0.2)
    verdicts = [compare_arms(*experiment(rng, lift), test)[-1]["verdict"] for lift in (1.6, 0.5, 1.0)]
    assert verdicts == ["better", "worse", "no difference shown"]
    first, *_, last, everything = compare_arms(*experiment(rng, 1.6), test)
    assert first["verdict"] == EARLY and last == {key: everything[key] for key in last} | {
        "group": last["group"]
    }
    time, user, _, values = experiment(rng)
    noisy = values + 0.1 + rng.normal(0, 0.1, ROWS)
    worse = compare_pairs(time, user, noisy, values, test, "lower")[-1]
    assert worse["verdict"] == "worse" and worse["low"] < 0.1 < worse["high"]
    assert worse["low"] < worse["fixed_low"] < worse["fixed_high"] < worse["high"]


@pytest.mark.parametrize("rows", [0, 1, 5, 60])
def test_too_little_data_says_nothing(rows: int) -> None:
    time, user, is_a, values = experiment(np.random.default_rng(0))
    time, user, is_a, values = time[:rows], user[:rows], is_a[:rows], values[:rows]
    for *_, comparison in (
        compare_arms(time, user, is_a, values, SequentialTest()),
        compare_arms(time, user, is_a, 0 * values, SequentialTest()),
        compare_pairs(time, user, values, values, SequentialTest()),
    ):
        assert (
            comparison["verdict"] == EARLY and comparison["low"] is None and comparison.get("p", 1.0) == 1.0
        )


def test_rates_are_those_of_the_rows() -> None:
    time, user, is_a, values = experiment(np.random.default_rng(1))
    comparison = compare_arms(time, user, is_a, values, SequentialTest())[-1]
    assert comparison["a"] == pytest.approx(values[is_a].mean()) and comparison["n"] == is_a.sum()
    assert comparison["difference"] == pytest.approx(values[is_a].mean() - values[~is_a].mean())
    # users as clusters: resampling users gives the same spread
    of_user = [np.bincount(user[side], values[side], USERS) for side in (is_a, ~is_a)]
    rows = [np.bincount(user[side], minlength=USERS) for side in (is_a, ~is_a)]
    rng, drawn = np.random.default_rng(2), []
    for _ in range(400):
        weight = rng.poisson(1.0, USERS)
        means = [(weight @ one) / (weight @ count) for one, count in zip(of_user, rows, strict=True)]
        drawn.append(means[0] - means[1])
    half = (comparison["fixed_high"] - comparison["fixed_low"]) / 2
    assert half == pytest.approx(1.96 * np.std(drawn), rel=0.15)
