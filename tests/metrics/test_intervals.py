"""Resamples of users: what is drawn, and that one pass gives what resample by resample gives."""

import numpy as np
import pytest

from corank.core.types import Doubles
from corank.metrics.intervals import draw_counts, replicates
from corank.metrics.measure import Measure, RatioMeasure
from corank.metrics.point import PairedDifference, auc, ece, gauc, logloss
from tests.support.scored_requests import bounds


def one_by_one(measure: Measure, seed: int = 0, count: int = 40) -> Doubles:
    """The value in each resample, by the definition."""
    users, code = np.unique(measure.user, return_inverse=True)
    counts = draw_counts(users, seed, count)
    values = [measure.value(counts[code, b].astype(np.float64)) for b in range(count)]
    return np.array([np.nan if value is None else value for value in values])


def measures(rows: int, people: int, seed: int) -> list[Measure]:
    rng = np.random.default_rng(seed)
    user, label, weight = (
        rng.integers(people, size=rows),
        rng.integers(-1, 2, size=rows),
        rng.random(rows) + 0.1,
    )
    score, other = rng.random(rows).round(4), rng.random(rows)
    args = (label, weight)
    return [
        auc(user, score, *args),
        ece(user, score, *args),
        gauc(user, score, *args),
        logloss(user, score, *args),
        PairedDifference(auc(user, score, *args), auc(user, other, *args)),
    ]


@pytest.mark.parametrize("seed", [0, 3])
def test_all_resamples_at_once_are_those_one_by_one(seed: int) -> None:
    for measure in measures(rows=60 * 4**seed // 4 + 1, people=1 + seed * 7, seed=seed):
        resamples = replicates(measure, seed, 40)
        assert resamples == pytest.approx(one_by_one(measure, seed), abs=1e-9, nan_ok=True)


def test_counts_are_poisson() -> None:
    counts = draw_counts(np.arange(20_000), count=50).astype(np.int64)
    assert counts.mean() == pytest.approx(1, abs=0.01) and counts.var() == pytest.approx(1, abs=0.02)
    assert [(counts == k).mean() for k in range(3)] == pytest.approx([0.3679, 0.3679, 0.1839], abs=0.005)
    between = np.corrcoef(counts[:, :10], rowvar=False) - np.eye(10)
    assert np.abs(between).max() < 0.04
    neighbours = np.corrcoef(np.stack((counts[:-1, 0], counts[1:, 0])))
    assert np.abs(neighbours - np.eye(2)).max() < 0.03


def test_interval_of_a_mean_is_that_of_theory() -> None:
    """Of 400 users with a prediction each: the error of their mean is its standard deviation / √400."""
    p = np.random.default_rng(1).random(400)
    low, high = bounds(RatioMeasure.of(np.arange(400), p, np.ones(400), n=400), count=20_000)
    assert low < p.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * p.std() / 20, rel=0.02)
