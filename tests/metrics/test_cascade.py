"""Metrics of cuts and of the whole cascade: by hand, and against every request alone."""

from collections.abc import Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.errors import DataError
from corank.core.types import Doubles
from corank.metrics.cascade import (
    best_score_loss,
    gain_ratio,
    joint_recall,
    kendall_tau,
    ndcg,
    recall,
    replaced_hit_rate,
    score_loss,
)
from tests.support.scored_requests import Scored, floats, order, requests, rows_of, scored


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


@given(st.lists(st.permutations(range(9)), min_size=1, max_size=5), st.integers(1, 8))
def test_ndcg_agrees_with_scikit_learn(orders: list[list[int]], k: int) -> None:
    from sklearn.metrics import ndcg_score

    some = requests(*[9] * len(orders))
    reference = np.tile(np.arange(9), len(orders))
    stage = np.concatenate(orders)
    gain = np.maximum(k - reference, 0).reshape(-1, 9)
    assert ndcg(some, reference, stage, k).value() == pytest.approx(
        ndcg_score(gain, -stage.reshape(-1, 9), k=k, ignore_ties=True)
    )
