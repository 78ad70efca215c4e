from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.errors import DataError
from corank.metrics.cascade import click_recall, kendall_tau, overlap, recall, recall_of
from corank.metrics.intervals import interval
from corank.metrics.measure import RatioMeasure
from tests.support.scored_requests import floats, labels, requests


def test_places_keep_the_logs_order_in_ties() -> None:
    three = requests(4, 0, 1, 3)
    assert three.ranks(floats(0.5, 0.9, 0.5, 0.7, 3, 1, 1, 2)).tolist() == [2, 0, 3, 1, 0, 1, 2, 0]
    assert three.user_of().tolist() == [0, 0, 0, 0, 2, 3, 3, 3]


def test_places_refuse_what_has_no_order() -> None:
    with pytest.raises(DataError, match=r"scores: 1 are NaN, first at row 1"):
        requests(2).ranks(floats(0, np.nan))
    with pytest.raises(DataError, match=r"scores: expected 2, one a candidate; received 3"):
        requests(2).ranks(floats(0, 1, 2))


def test_recall_by_hand() -> None:
    two = requests(4, 5, 2, 0)
    reference = two.ranks(floats(4, 3, 2, 1, 1, 2, 3, 4, 5, 1, 2))
    stage = two.ranks(floats(1, 9, 2, 8, 1, 2, 9, 3, 8, 1, 2))
    # Request 0: {0, 1} against {1, 3, 2}: 1/2. Request 1: {4, 3} against {2, 4, 3}: 1. The others have ≤ 3.
    measure = recall(two, reference, stage, k=2, m=3)
    assert measure.value() == pytest.approx(0.75)
    assert measure.n == 2
    assert measure.random_value() == pytest.approx((3 / 4 + 3 / 5) / 2)
    # k above the candidates: all four of request 0, all five of request 1.
    assert recall(two, reference, stage, k=9, m=3).value() == pytest.approx((3 / 4 + 3 / 5) / 2)


def test_click_recall_by_hand() -> None:
    # Request 0: one of two clicks in the top 2; request 1 has no click, request 2 no cut, request 3 its one.
    four = requests(4, 3, 2, 3)
    clicked = labels(1, 1, -1, 0, 0, 0, 0, 1, 1, -1, 1, 0)
    stage = four.ranks(floats(9, 1, 2, 3, 1, 2, 3, 1, 2, 1, 3, 2))
    measure = click_recall(four, clicked, stage, m=2)
    assert (measure.value(), measure.n) == (pytest.approx(0.75), 2)
    assert measure.random_value() == pytest.approx((2 / 4 + 2 / 3) / 2)


def test_overlap_by_hand() -> None:
    two = requests(4, 2)
    one, other = two.ranks(floats(4, 3, 2, 1, 1, 2)), two.ranks(floats(4, 1, 2, 3, 2, 1))
    assert overlap(two, one, other, k=2).value() == pytest.approx(0.5)
    assert overlap(two, one, other, k=2).n == 1
    assert overlap(two, one, other, k=1).value() == pytest.approx(0.5)
    assert overlap(two, one, other, k=1).random_value() == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_recall_of_a_set_by_hand() -> None:
    # Positives of request 0: 2 of 4, one in its top 2. Request 1 has none, request 2 no cut.
    three = requests(4, 3, 2)
    positives = np.array([1, 0, 0, 1, 0, 0, 0, 1, 1], dtype=bool)
    stage = three.ranks(floats(4, 3, 2, 1, 3, 2, 1, 2, 1))
    measure = recall_of(three, positives, stage, m=2)
    assert (measure.value(), measure.n, measure.random_value()) == (0.5, 1, 0.5)


def test_nothing_eligible_has_no_value() -> None:
    for few in (requests(), requests(0), requests(1, 1), requests(2, 2)):
        scores = np.linspace(0, 1, int(few.start[-1]))
        places = few.ranks(scores)
        for measure in (
            recall(few, places, places, k=1, m=2),
            click_recall(few, np.ones(len(scores), dtype=np.int8), places, m=2),
            overlap(few, places, places, k=2),
            recall_of(few, np.zeros(len(scores), dtype=bool), places, m=0),
            kendall_tau(few, scores, np.zeros(len(scores))),
        ):
            assert (measure.value(), measure.random_value(), measure.n, interval(measure)) == (
                None,
                None,
                0,
                None,
            )


def test_kendall_tau_by_hand() -> None:
    # Orders 1 2 3 and 1 3 2: two concordant pairs, one discordant. A single candidate does not count.
    measure = kendall_tau(requests(3, 1), floats(1, 2, 3, 5), floats(1, 3, 2, 5))
    assert (measure.value(), measure.n, measure.random_value()) == (pytest.approx(1 / 3), 1, 0)


@given(st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), max_size=6))
def test_kendall_tau_agrees_with_scipy(lists: list[list[tuple[int, int]]]) -> None:
    from scipy.stats import kendalltau

    flat = np.array([pair for pairs in lists for pair in pairs], dtype=np.float32).reshape(-1, 2)
    some = requests(*map(len, lists))
    eligible = [list(zip(*pairs, strict=True)) for pairs in lists if pairs]
    taus = [
        kendalltau(one, other).statistic for one, other in eligible if len(set(one)) > 1 < len(set(other))
    ]
    measure = kendall_tau(some, flat[:, 0], flat[:, 1])
    assert measure.n == len(taus)
    assert measure.value() == (pytest.approx(np.mean(taus), abs=1e-12) if taus else None)


@given(st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=6), st.integers(1, 8), st.integers(1, 12))
def test_recall_is_that_of_plain_sets(lists: list[list[int]], k: int, m: int) -> None:
    some = requests(*map(len, lists))
    stage = floats(*[score for scores in lists for score in scores])
    reference = -stage % 4
    shares = []
    for begin, end in pairwise(some.start):
        places = sorted(range(begin, end), key=lambda i: (-stage[i], i))[:m]
        best = sorted(range(begin, end), key=lambda i: (-reference[i], i))[:k]
        if end - begin > m:
            shares.append(len(set(places) & set(best)) / len(best))
    measure = recall(some, some.ranks(reference), some.ranks(stage), k, m)
    assert measure.n == len(shares)
    assert measure.value() == (pytest.approx(np.mean(shares)) if shares else None)


def test_parts_by_request_merge_to_the_whole() -> None:
    stage, reference = np.random.default_rng(0).random((2, 40))
    whole, half = requests(*[10] * 4, user=[7, 8, 7, 9]), [requests(10, 10, user=u) for u in ([7, 8], [7, 9])]
    parts = [
        recall(part, part.ranks(reference[rows]), part.ranks(stage[rows]), 3, 5)
        for part, rows in zip(half, (slice(20), slice(20, None)), strict=True)
    ]
    expected = recall(whole, whole.ranks(reference), whole.ranks(stage), 3, 5)
    merged = RatioMeasure.merge(parts)
    assert merged.user.tolist() == [7, 8, 9]
    assert (merged.value(), merged.random_value(), merged.n) == (expected.value(), expected.random_value(), 4)
