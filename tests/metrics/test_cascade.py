"""Metrics of cuts and of the whole cascade: by hand, and against every request alone."""

from collections.abc import Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from corank.core.errors import DataError
from corank.core.types import Doubles
from corank.metrics.cascade import (
    best_score_loss,
    click_recall,
    gain_ratio,
    joint_recall,
    kendall_tau,
    ndcg,
    quota_curve,
    recall,
    recall_of,
    replaced_hit_rate,
    score_loss,
)
from corank.metrics.intervals import interval
from tests.support.scored_requests import Scored, floats, labels, order, requests, rows_of, scored


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


def naive_order(rows: Iterable[int], stages: list[Doubles], quotas: list[int]) -> list[int]:
    """One request through the cascade, stage by stage, in plain lists."""
    ranked = order(stages[0], rows)
    for scores, quota in zip(stages[1:], quotas, strict=True):
        ranked = order(scores, ranked[:quota]) + ranked[quota:]
    return ranked


def test_joint_recall_by_hand() -> None:
    # Positives 0, 3 and 4 of six. The first stage cuts 4 and 5, the second ranks 3 1 0 2: its top 2 holds 3 alone.
    three = requests(6, 2, 3)
    positives = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0], dtype=bool)
    first = floats(6, 5, 4, 3, 2, 1, 2, 1, 3, 2, 1)
    second = floats(2, 3, 1, 4, 9, 9, 2, 1, 3, 2, 1)
    measure = joint_recall(three, positives, [first, second], [4], m=2)
    # The second request has no more than two candidates, the third no positive.
    assert (measure.value(), measure.n, measure.random_value()) == (
        pytest.approx(1 / 3),
        1,
        pytest.approx(2 / 6),
    )
    # What a stage cut does not come back by a greater m: of the four kept, 0 and 3.
    wide = joint_recall(three, positives, [first, second], [4], m=5)
    assert (wide.value(), wide.n, wide.random_value()) == (pytest.approx(2 / 3), 1, pytest.approx(4 / 6))


@given(scored(4), st.integers(1, 10), st.integers(1, 10), st.integers(1, 10), st.integers(1, 12))
def test_joint_recall_is_that_of_a_cascade_run_request_by_request(
    data: Scored, q1: int, q2: int, k: int, m: int
) -> None:
    some, (truth, *stages) = data
    shares, cut = [], min(q1, q2, m)
    for rows in rows_of(some):
        best = set(order(truth, rows)[:k])
        if len(rows) > cut:
            kept = naive_order(rows, stages, [q1, q2])[: min(m, q1, q2)]
            shares.append(len(best & set(kept)) / len(best))
    measure = joint_recall(some, some.ranks(truth) < k, stages, [q1, q2], m)
    assert measure.n == len(shares)
    assert measure.value() == (pytest.approx(np.mean(shares)) if shares else None)
    assert (measure.random_value() is None) == (not shares)


@given(scored(4), st.integers(1, 10), st.integers(1, 10), st.integers(1, 6), st.integers(0, 2))
def test_replaced_hit_rate_is_that_of_two_runs(
    data: Scored, one: int, two: int, k: int, replaced: int
) -> None:
    some, (*stages, by) = data
    quotas = [max(one, two, k), max(min(one, two), k)]
    changed = [by if n == replaced else scores for n, scores in enumerate(stages)]
    shares, chances = [], []
    for rows in rows_of(some):
        reach = min([len(rows), *quotas[:replaced]])
        if reach > [*quotas, k][replaced]:
            runs = [set(naive_order(rows, s, quotas)[:k]) for s in (stages, changed)]
            shares.append(len(runs[0] & runs[1]) / k)
            chances.append(k / reach)
    measure = replaced_hit_rate(some, stages, quotas, replaced, by, k)
    assert measure.n == len(shares)
    assert measure.value() == (pytest.approx(np.mean(shares)) if shares else None)
    if replaced == 2:
        assert measure.random_value() == (pytest.approx(np.mean(chances)) if shares else None)
    else:
        assert measure.random is None


def test_shares_of_scores_refuse_logits() -> None:
    rows = requests(2), floats(0.5, -1), np.array([0, 1])
    with pytest.raises(DataError, match=r"-1\.0 is below 0"):
        score_loss(*rows, n=1)
    with pytest.raises(DataError, match=r"-1\.0 is below 0"):
        gain_ratio(*rows, k=1, m=1)


@given(scored(2), st.integers(1, 6), st.integers(1, 8))
def test_gains_are_those_of_every_request_alone(data: Scored, k: int, m: int) -> None:
    some, (scores, stage) = data
    ratios, ratio_chances, losses, loss_chances = [], [], [], []
    take = min(k, m)
    for rows in rows_of(some):
        if len(rows) <= m:
            continue
        values = scores[list(rows)]
        kept = sorted(scores[order(stage, rows)[:m]], reverse=True)
        ideal = sum(sorted(values, reverse=True)[:take])
        # every set that a random order could keep, all equally likely
        drawn = [sorted(chosen, reverse=True) for chosen in combinations(values, m)] if len(rows) < 10 else []
        losses.append(values.max() - kept[0])
        loss_chances.append(values.max() - np.mean([d[0] for d in drawn]) if drawn else None)
        if ideal > 0:
            ratios.append(sum(kept[:take]) / ideal)
            ratio_chances.append(np.mean([sum(d[:take]) for d in drawn]) / ideal if drawn else None)
    for measure, expected, chances in (
        (gain_ratio(some, scores, some.ranks(stage), k, m), ratios, ratio_chances),
        (best_score_loss(some, scores, some.ranks(stage), m), losses, loss_chances),
    ):
        assert measure.n == len(expected)
        assert measure.value() == (pytest.approx(np.mean(expected)) if expected else None)
        known = [chance for chance in chances if chance is not None]
        if expected and len(known) == len(chances):
            assert measure.random_value() == pytest.approx(np.mean(known))


@given(scored(2), st.integers(1, 6))
def test_score_loss_is_what_the_gain_ratio_lacks(data: Scored, n: int) -> None:
    some, (scores, stage) = data
    loss = score_loss(some, scores, some.ranks(stage), n)
    ratio = gain_ratio(some, scores, some.ranks(stage), n, n)
    assert loss.n == ratio.n
    for lost, gained in ((loss.value(), ratio.value()), (loss.random_value(), ratio.random_value())):
        assert (gained is not None) == bool(ratio.n)
        assert lost == (None if gained is None else pytest.approx(1 - gained))


@given(st.lists(st.permutations(range(9)), min_size=1, max_size=5), st.integers(1, 8))
def test_ndcg_agrees_with_scikit_learn(orders: list[list[int]], k: int) -> None:
    some = requests(*[9] * len(orders))
    reference = np.tile(np.arange(9), len(orders))
    stage = np.concatenate(orders)
    gain = np.maximum(k - reference, 0).reshape(-1, 9)
    assert ndcg(some, reference, stage, k).value() == pytest.approx(
        ndcg_score(gain, -stage.reshape(-1, 9), k=k, ignore_ties=True)
    )


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


def test_nothing_eligible_has_no_value() -> None:
    for few in (requests(), requests(0), requests(1, 1), requests(2, 2)):
        scores = np.linspace(0, 1, int(few.start[-1]))
        ranks, positives = few.ranks(scores), np.ones(len(scores), dtype=bool)
        for measure in (
            recall(few, ranks, ranks, k=1, m=2),
            recall_of(few, ~positives, ranks, m=0),
            kendall_tau(few, scores, np.zeros(len(scores))),
            joint_recall(few, positives, [scores, scores], [3], m=2),
            replaced_hit_rate(few, [scores, scores], [3], 1, by=scores, k=2),
            score_loss(few, scores, ranks, n=2),
            best_score_loss(few, scores, ranks, m=2),
            gain_ratio(few, scores, ranks, k=1, m=2),
            ndcg(few, ranks, ranks, k=2),
            quota_curve(few, {"none": positives}, ranks, [2]).measures["none"][0],
        ):
            assert (measure.value(), measure.random_value(), measure.n) == (None, None, 0)
            assert interval(measure) is None
