"""Smoothing fitted to counts by key."""

import numpy as np
import pytest

from corank.core.time import FOREVER
from corank.features.priors import (
    ALL_TIME,
    USUAL,
    Memory,
    PriorCounts,
    add_up,
    add_up_one,
    fit_smoothing,
    sum_of_all,
    sum_periods,
)
from tests.features.test_priors import frame


def drawn(s: float, rate: float, keys: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of keys whose rates are beta-distributed."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(1, 200, keys)
    positive = rng.binomial(shown, rng.beta(s * rate, s * (1 - rate), keys))
    return shown.astype(float), positive.astype(float)


@pytest.mark.parametrize("s", [3, 30, 300])
@pytest.mark.parametrize("rate", [0.04, 0.35])
def test_the_strength_of_the_prior_is_found(s: float, rate: float) -> None:
    assert fit_smoothing(*drawn(s, rate, 20_000)) == pytest.approx(s, rel=0.25)


def test_few_keys_leave_the_usual() -> None:
    none = np.zeros(0)
    assert fit_smoothing(none, none) == fit_smoothing(np.ones(5), np.zeros(5)) == USUAL
    assert fit_smoothing(np.ones(5), np.ones(5)) == fit_smoothing(np.zeros(3), np.zeros(3)) == USUAL
    for keys in (1, 2, 5):
        assert 1 < fit_smoothing(*drawn(10, 0.3, keys)) < 100


@pytest.mark.parametrize("memory", [ALL_TIME, Memory(1, window=500), Memory(1, half_life=100)])
def test_it_is_fitted_to_what_training_counts(memory: Memory) -> None:
    shown, positive = drawn(20, 0.1, 300)
    rows = [(n + 1, n % 7, shown[n], positive[n]) for n in range(300)]
    late = [(n + 1, 100, 50.0, 50.0 * (n % 2)) for n in range(300)]

    def fitted(*some: list[tuple[int, int, float, float]], end: int) -> float | None:
        weights = sum_periods(frame([row for part in some for row in part]))
        of_all = add_up_one(sum_of_all(weights), memory)
        return PriorCounts(*add_up(weights, memory), of_all).fit_smoothing(end, memory).fitted

    assert fitted(rows, late, end=100) == fitted(rows, end=100) != fitted(rows, late, end=101)
    assert fitted(rows, end=FOREVER) == fitted(rows, end=7)
