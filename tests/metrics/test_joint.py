from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.types import Doubles
from corank.metrics.cascade import cascade_ranks, joint_recall, overlap, recall, replaced_hit_rate
from corank.metrics.intervals import interval
from corank.metrics.measure import RatioMeasure
from tests.support.scored_requests import Scored, floats, order, requests, rows_of, scored


def naive_order(rows: Iterable[int], stages: list[Doubles], quotas: list[int]) -> list[int]:
    """One request through the cascade, stage by stage, in plain lists."""
    ranked = order(stages[0], rows)
    for scores, quota in zip(stages[1:], quotas, strict=True):
        ranked = order(scores, ranked[:quota]) + ranked[quota:]
    return ranked


def test_cascade_ranks_by_hand() -> None:
    # The pre-ranker keeps the first three of 1 2 3 4 5; the ranker orders 5 4 3 2 1. The second request is short.
    two = requests(5, 0, 2)
    first, last = floats(5, 4, 3, 2, 1, 2, 1), floats(1, 2, 3, 4, 5, 1, 2)
    assert cascade_ranks(two, [first, last], [3]).tolist() == [2, 1, 0, 3, 4, 1, 0]
    assert cascade_ranks(two, [first], []).tolist() == [0, 1, 2, 3, 4, 0, 1]
    # A third stage keeps the ranker's two, 3 and 2, and reverses them; ties keep the log's order.
    assert cascade_ranks(two, [first, last, floats(0, 1, 0, 9, 9, 3, 3)], [3, 2]).tolist() == [
        *(2, 0, 1, 3, 4),
        *(0, 1),
    ]


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


def test_joint_recall_at_20_of_a_random_order_is_a_half() -> None:
    # LCRON's protocol: 40 candidates, 10 positives, of which stage one keeps 30, stage two 20.
    many = requests(*[40] * 2000)
    generator = np.random.default_rng(0)
    positives = np.tile(np.arange(40) < 10, 2000)
    stages = list(generator.random((2, 80_000)))
    measure = joint_recall(many, positives, stages, [30], m=20)
    assert (measure.random_value(), measure.n) == (0.5, 2000)
    assert measure.value() == pytest.approx(0.5, abs=0.01)
    # Both stages perfect, or the second alone: 7.5 of 10 pass a random first cut.
    assert joint_recall(many, positives, [positives * 1.0] * 2, [30], m=20).value() == 1
    behind = joint_recall(many, positives, [stages[0], positives * 1.0], [30], m=20)
    assert behind.value() == pytest.approx(0.75, abs=0.01)


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


def test_replaced_hit_rate_by_hand() -> None:
    # The first keeps 1 2 3 4 of 1 to 5, the last chooses 4 3; the first in its place would choose 1 2, another 4 2.
    two = requests(5, 2)
    first, last = floats(5, 4, 3, 2, 1, 2, 1), floats(1, 2, 3, 4, 5, 1, 2)
    rcs = replaced_hit_rate(two, [first, last], [4], 1, by=first, k=2)
    assert (rcs.value(), rcs.n, rcs.random_value()) == (0, 1, pytest.approx(2 / 4))
    other = replaced_hit_rate(two, [first, last], [4], 1, by=floats(1, 3, 2, 4, 9, 1, 2), k=2)
    assert (other.value(), other.n) == (0.5, 1)
    # The last in place of the first lets 5 in and 3 out.
    early = replaced_hit_rate(two, [first, last], [4], 0, by=last, k=2)
    assert (early.value(), early.n, early.random_value()) == (0.5, 1, None)


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


@given(scored(2, high=40), st.integers(2, 9))
def test_the_ranker_in_place_of_the_pre_ranker_gives_the_recall(data: Scored, m: int) -> None:
    some, (first, last) = data
    k = m // 2
    replaced = replaced_hit_rate(some, [first, last], [m], 0, by=last, k=k)
    agree = recall(some, some.ranks(last), some.ranks(first), k, m)
    assert (replaced.value(), replaced.n) == (pytest.approx(agree.value()), agree.n)


def test_a_stage_that_cuts_nothing_leaves_the_overlap() -> None:
    generator = np.random.default_rng(3)
    some, first, last = requests(9, 12), *generator.random((2, 21))
    rcs = replaced_hit_rate(some, [first, last], [50], 1, by=first, k=3)
    assert rcs.value() == overlap(some, some.ranks(first), some.ranks(last), 3).value()


def test_nothing_eligible_has_no_value() -> None:
    for few in (requests(), requests(0), requests(1, 1), requests(2, 2)):
        scores = np.linspace(0, 1, int(few.start[-1]))
        positives = np.ones(len(scores), dtype=bool)
        for measure in (
            joint_recall(few, positives, [scores, scores], [3], m=2),
            replaced_hit_rate(few, [scores, scores], [3], 1, by=scores, k=2),
        ):
            assert (measure.value(), measure.random_value(), measure.n, interval(measure)) == (
                None,
                None,
                0,
                None,
            )


def test_one_candidate_is_kept_by_all() -> None:
    one = requests(1)
    assert cascade_ranks(one, [floats(0.5), floats(0.2)], [3]).tolist() == [0]
    assert joint_recall(one, np.array([True]), [floats(0.5), floats(0.2)], [3], m=1).n == 0


def test_parts_by_request_merge_to_the_whole() -> None:
    stages = list(np.random.default_rng(0).random((2, 40)))
    positives = np.arange(40) % 3 == 0
    whole, half = requests(*[10] * 4, user=[7, 8, 7, 9]), [requests(10, 10, user=u) for u in ([7, 8], [7, 9])]
    parts = [
        joint_recall(part, positives[rows], [s[rows] for s in stages], [6], 3)
        for part, rows in zip(half, (slice(20), slice(20, None)), strict=True)
    ]
    expected, merged = joint_recall(whole, positives, stages, [6], 3), RatioMeasure.merge(parts)
    assert merged.user.tolist() == [7, 8, 9]
    assert (merged.value(), merged.random_value(), merged.n) == (expected.value(), expected.random_value(), 4)
