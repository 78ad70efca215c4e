"""The probability that the best candidate is cut: by hand, against drawn choices, and against a bucket's clicks."""

import numpy as np
import pytest

from corank.metrics.off_policy import best_cut, bucket_click_recall, cut_probability
from corank.metrics.requests import Requests

REQUESTS = Requests(np.array([0, 3, 5]), np.array([7, 9]))
RANK = np.array([0, 1, 2, 1, 0])
P = np.array([0.2, 0.1, 0.1, 0.3, 0.6], np.float32)


def test_figures_by_hand() -> None:
    assert cut_probability(REQUESTS, P, RANK, 1) == pytest.approx([0.5, 1 / 3])
    measure = best_cut(REQUESTS, P, RANK, 1)
    assert (measure.value(), measure.n) == (pytest.approx((0.5 + 1 / 3) / 2), 2)
    assert measure.random_value() == pytest.approx((2 / 3 + 1 / 2) / 2)
    two = best_cut(REQUESTS, P, RANK, 2)  # which cuts nothing of the second request
    assert (two.value(), two.n) == (pytest.approx(0.25), 1)


def test_probabilities_that_vanish_are_no_division_by_zero() -> None:
    assert cut_probability(REQUESTS, np.zeros(5, np.float32), RANK, 1) == pytest.approx([2 / 3, 1 / 2])


def test_it_is_how_often_choices_of_a_world_that_is_as_believed_are_cut() -> None:
    """Users choose the highest of log p + Gumbel noise; requests differ in how much is cut."""
    rng = np.random.default_rng(0)
    requests = Requests(np.arange(0, 40_001, 20), np.arange(2_000))
    p = rng.beta(1, 8, 40_000)
    rank = requests.ranks(p * rng.lognormal(0, 1, 40_000))
    believed = cut_probability(requests, p, rank, 5)
    chosen = requests.ranks(np.log(p) + rng.gumbel(size=40_000)) == 0
    lost = requests.sums(chosen & (rank >= 5))
    for half in (believed <= np.median(believed), believed > np.median(believed)):
        assert lost[half].mean() == pytest.approx(believed[half].mean(), abs=0.04)
    assert believed[believed > np.median(believed)].mean() > believed.mean() + 0.05


def test_a_bucket_observes_what_the_cut_keeps_of_all_clicks() -> None:
    """Clicks of the second request weigh 1/.5 and 1/.25; the first is of no bucket, of the third nothing is cut."""
    requests = Requests(np.array([0, 3, 6, 8]), np.array([1, 2, 3]))
    nan = np.nan
    recall = bucket_click_recall(
        requests,
        np.array([1, 0, -1, 1, 1, 0, 1, 1]),
        np.array([1, 1, 0, 1, 1, 1, 1, 1], bool),
        np.array([nan, nan, nan, 0.5, 0.25, 0.5, 0.5, 0.5]),
        np.array([2, 1, 0, 0, 2, 1, 0, 1]),
        2,
    )
    assert (recall.value(), recall.n) == (pytest.approx(2 / (2 + 4)), 1)
    assert recall.random_value() == pytest.approx(2 / 3)
