"""Smoothing fitted to counts by key."""

import numpy as np
import pytest

from corank.features.priors import (
    USUAL,
    fit_smoothing,
)


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
