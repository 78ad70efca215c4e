"""Intervals over users and seeds, by hand-computed numbers."""

import numpy as np
import pytest

from corank.analysis.experiments.figures import Interval, mean_over_seeds


def test_one_seed_is_users_alone() -> None:
    replicates = np.arange(101.0).reshape(1, 101)
    assert mean_over_seeds([50.0], replicates) == Interval(50.0, 2.5, 97.5)


def test_the_spread_of_seeds_is_that_of_their_mean() -> None:
    seeds = np.random.default_rng(0).normal(size=20)
    estimate = mean_over_seeds(seeds.tolist(), np.tile(seeds[:, None], (1, 2000)))
    error = seeds.std(ddof=1) / np.sqrt(20)
    assert estimate.value == pytest.approx(seeds.mean())
    assert estimate.low == pytest.approx(seeds.mean() - 1.96 * error, abs=0.1 * error)
    assert estimate.high == pytest.approx(seeds.mean() + 1.96 * error, abs=0.1 * error)


def test_two_seeds_are_stretched_by_the_root_of_two() -> None:
    # both seeds the same a quarter of the time each: ±1 becomes ±√2 about 0
    estimate = mean_over_seeds([-1.0, 1.0], np.tile([[-1.0], [1.0]], (1, 500)))
    assert estimate.low == pytest.approx(-np.sqrt(2))
    assert estimate.high == pytest.approx(np.sqrt(2))
