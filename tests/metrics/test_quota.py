import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.metrics.cascade import click_recall, quota_curve, recall
from corank.metrics.intervals import interval
from tests.support.scored_requests import Scored, floats, labels, requests, scored


def test_curve_by_hand() -> None:
    # Positives of request 0 stand at places 0 and 3 of five, that of request 1 at place 1 of three.
    two = requests(5, 3)
    stage = two.ranks(floats(5, 4, 3, 2, 1, 3, 2, 1))
    positives = np.array([1, 0, 0, 1, 0, 0, 1, 0], dtype=bool)
    curve = quota_curve(two, {"truth": positives, "none": ~positives & positives}, stage, [1, 2, 4, 5])
    assert curve.m.tolist() == [1, 2, 4, 5]
    # At 4 the second request is no longer cut; at 5 none is.
    assert curve.recall("truth") == pytest.approx([(0.5 + 0) / 2, (0.5 + 1) / 2, 1, np.nan], nan_ok=True)
    assert curve.random("truth") == pytest.approx(
        [(1 / 5 + 1 / 3) / 2, (2 / 5 + 2 / 3) / 2, 4 / 5, np.nan], nan_ok=True
    )
    assert [measure.n for measure in curve.measures["truth"]] == [2, 2, 1, 0]
    assert np.isnan(curve.recall("none")).all()
    assert interval(curve.measures["truth"][1]) == (0.5, 1)


@given(scored(3, high=9), st.integers(1, 6), st.lists(st.integers(1, 15), min_size=1, max_size=5))
def test_each_point_is_the_recall_at_its_quota(data: Scored, k: int, quotas: list[int]) -> None:
    some, (reference, stage, clicked) = data
    clicks = labels(*(clicked > 6))
    places, ranker = some.ranks(stage), some.ranks(reference)
    curve = quota_curve(some, {"agree": ranker < k, "click": clicks == 1}, places, quotas)
    for n, m in enumerate(quotas):
        for name, expected in (
            ("agree", recall(some, ranker, places, k, m)),
            ("click", click_recall(some, clicks, places, m)),
        ):
            point = curve.measures[name][n]
            assert (point.value(), point.random_value(), point.n) == (
                expected.value(),
                expected.random_value(),
                expected.n,
            )


def test_no_requests_have_no_curve() -> None:
    curve = quota_curve(requests(), {"agree": np.zeros(0, dtype=bool)}, np.zeros(0, dtype=np.int64), [1, 2])
    assert np.isnan(curve.recall("agree")).all() and np.isnan(curve.random("agree")).all()
