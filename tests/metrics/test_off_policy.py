"""Off-policy estimates, over every draw that a random bucket could make, and what a cut loses of the best."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from corank.metrics.intervals import interval
from corank.metrics.measure import RatioMeasure
from corank.metrics.off_policy import (
    best_cut,
    bucket_click_recall,
    bucket_weight,
    cut_probability,
    dr_click_rate,
    ips_click_rate,
    snips_click_rate,
)
from corank.metrics.requests import Requests

CLICKS = np.array([1, 0, 1, 0, 0, 1], bool)
"""Of each candidate of a request, if it is exposed."""
LISTED = np.array([1, 1, 0, 0, 0, 0], bool)
DRAWS = list(combinations(range(6), 3))
WEIGHTS = np.linspace(1, 3, len(DRAWS)) / np.linspace(1, 3, len(DRAWS)).sum()
"""The probability of each draw, of which that of a candidate follows."""
NAN = np.nan


def one_request(draw: tuple[int, ...]) -> dict[str, Any]:
    exposed = np.isin(np.arange(6), draw)
    chance = [sum(w for w, d in zip(WEIGHTS, DRAWS, strict=True) if n in d) for n in range(6)]
    return {
        "requests": Requests(np.array([0, 6]), np.array([4])),
        "exposed": exposed,
        "propensity": np.array(chance),
        "clicked": CLICKS & exposed,
        "listed": LISTED,
    }


def value(measure: RatioMeasure) -> float:
    estimate = measure.value()
    assert estimate is not None
    return estimate


@pytest.mark.parametrize("q", [0.0, 0.3, 7.0])
def test_the_mean_over_all_draws_is_the_truth_whatever_the_model_believes(q: float) -> None:
    """An item of the two listed is clicked, so the truth is 1/2; propensities differ from candidate to candidate."""
    ips = [value(ips_click_rate(**one_request(draw))) for draw in DRAWS]
    assert WEIGHTS @ ips == pytest.approx(0.5)
    expected = np.array([q, 0.1, 0.2, q, 0.9, 0.5])
    dr = [value(dr_click_rate(**one_request(draw), expected=expected)) for draw in DRAWS]
    assert WEIGHTS @ dr == pytest.approx(0.5)
    assert max(ips) > 1  # a single draw may be far off


def two_users() -> dict[str, Any]:
    """Three requests of three candidates, of which the second is of no bucket, though exposed."""
    return {
        "requests": Requests(np.array([0, 3, 6, 9]), np.array([1, 1, 2])),
        "exposed": np.array([1, 1, 0, 1, 1, 1, 0, 1, 0], bool),
        "propensity": np.array([0.5, 0.25, NAN, NAN, NAN, NAN, 0.5, 0.5, 0.5]),
        "clicked": np.array([1, 0, 0, 1, 1, 1, 0, 1, 0], bool),
        "listed": np.array([1, 1, 0, 1, 1, 0, 0, 1, 1], bool),
    }


def test_figures_by_hand() -> None:
    """Exposed and listed: a click at 1/2 and none at 1/4 of the first request, a click at 1/2 of the third."""
    arguments = two_users()
    ips = ips_click_rate(**arguments)
    assert (value(ips), ips.n) == ((2 + 2) / 4, 2)
    assert ips.random_value() == pytest.approx((2 / 3 * 2 + 2 / 3 * 2) / 4)
    snips = snips_click_rate(**arguments)
    assert value(snips) == (2 + 2) / (2 + 4 + 2)
    assert snips.random_value() == pytest.approx(4 / 8)
    q = np.array([0.4, 0.2, 0.1, 0.9, 0.9, 0.9, 0.3, 0.6, 0.5])
    listed = 0.4 + 2 * 0.6 + 0.2 - 4 * 0.2 + 0.6 + 2 * 0.4 + 0.5
    assert value(dr_click_rate(**arguments, expected=q)) == pytest.approx(listed / 4)
    weight = bucket_weight(arguments["requests"], arguments["exposed"], arguments["propensity"])
    assert value(weight) == pytest.approx((6 / 3 + 2 / 3) / 2)
    bounds = interval(ips)
    assert bounds is not None and bounds[0] <= 1 <= bounds[1]


REQUESTS = Requests(np.array([0, 3, 5]), np.array([7, 9]))
RANK = np.array([0, 1, 2, 1, 0])
P = np.array([0.2, 0.1, 0.1, 0.3, 0.6], np.float32)


def test_the_probability_of_a_cut_by_hand() -> None:
    assert cut_probability(REQUESTS, P, RANK, 1) == pytest.approx([0.5, 1 / 3])
    measure = best_cut(REQUESTS, P, RANK, 1)
    assert (measure.value(), measure.n) == (pytest.approx((0.5 + 1 / 3) / 2), 2)
    assert measure.random_value() == pytest.approx((2 / 3 + 1 / 2) / 2)
    two = best_cut(REQUESTS, P, RANK, 2)  # which cuts nothing of the second request
    assert (two.value(), two.n) == (pytest.approx(0.25), 1)


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
