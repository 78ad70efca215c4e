"""Off-policy estimates, over every draw that a random bucket could make, and what a cut loses of the best."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from corank.metrics import off_policy
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
from corank.metrics.pages import page_clicks
from corank.metrics.requests import Requests

CLICKS = np.array([1, 0, 1, 0, 0, 1], bool)
"""Of each candidate of a request, if it is exposed."""
LISTED = np.array([1, 1, 0, 0, 0, 0], bool)
DRAWS = list(combinations(range(6), 3))
WEIGHTS = np.linspace(1, 3, len(DRAWS)) / np.linspace(1, 3, len(DRAWS)).sum()
"""The probability of each draw, of which that of a candidate follows."""
NAN = np.nan


@pytest.fixture(autouse=True)
def no_least_sample(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Figures by hand are of a few requests, which count."""
    if request.function is not test_what_a_few_requests_say_is_no_number:
        monkeypatch.setattr(off_policy, "LEAST_EFFECTIVE", 0.0)


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


def bucket_of(requests: int, exposed: Any, propensity: Any, outside: int = 0) -> dict[str, Any]:
    """Requests of three candidates, of which the cascade lists the first; all alike, and some of no bucket."""
    whole = requests + outside
    chance = np.tile(np.asarray(propensity, dtype=float), whole)
    chance[3 * requests :] = NAN
    return {
        "requests": Requests(np.arange(whole + 1) * 3, np.arange(whole)),
        "exposed": np.tile(np.asarray(exposed, bool), whole),
        "propensity": chance,
        "clicked": np.tile(np.asarray(exposed, bool), whole),
        "listed": np.tile(np.array([1, 0, 0], bool), whole),
    }


def test_what_a_few_requests_say_is_no_number() -> None:
    cannot = "the log cannot judge this cascade: "
    few = bucket_of(31, [1, 0, 0], [0.9, 0.1, NAN], outside=1209)
    for measure in (ips_click_rate(**few), snips_click_rate(**few), page_clicks(**few)):
        assert (measure.value(), interval(measure), measure.n) == (None, None, 31)
        wanted = "effective sample 31 of 31 requests; a bucket of 9 % for as long would do"
        assert measure.reason == cannot + wanted
    assert ips_click_rate(**bucket_of(120, [1, 0, 0], [0.9, 0.1, NAN])).reason is None
    # one request of a great weight counts as about one
    heavy = bucket_of(400, [1, 0, 0], [1.0, 1.0, NAN])
    heavy["propensity"][0] = 1e-4
    assert str(ips_click_rate(**heavy).reason).startswith(
        cannot + "effective sample 1 of 400 requests; 93 times"
    )
    none = bucket_of(400, [0, 1, 0], [0.5, 0.5, 0.5])
    wanted = "none of what it would show was drawn, in 400 requests of the bucket"
    assert dr_click_rate(**none, expected=np.full(1200, 0.5)).reason == cannot + wanted
    # a third of what it lists could never be drawn, which shows before the weights do
    softened = bucket_of(400, [1, 0, 0], [1.0, 0.5, NAN])
    softened["listed"] = np.tile(np.array([1, 1, 1], bool), 400)
    softened["listed"][:600:3] = False
    assert str(ips_click_rate(**softened).reason).startswith(
        cannot + "60% of what it would show could be drawn"
    )
    # half of the lists were never drawn
    half = bucket_of(400, [1, 0, 0], [1.0, 1.0, NAN])
    half["exposed"][np.arange(0, 1200, 6)] = False
    assert str(ips_click_rate(**half).reason).startswith(cannot + "50% of what it would show could be drawn")
