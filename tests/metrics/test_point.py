from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.intervals import interval, replicates
from corank.metrics.measure import OrderMeasure, RatioMeasure
from corank.metrics.point import Labels, auc, cut_auc, ece, gauc, logloss, pcoc, truth_auc
from tests.support.scored_requests import bounds, floats, labels

Point = Callable[..., Any]
"""A metric of columns that gives a measure."""

POINT: list[Point] = [auc, gauc, logloss, pcoc, ece]


def users(*values: int) -> Longs:
    return np.array(values, dtype=np.int64)


def many(
    seed: int, rows: int = 400, people: int = 12, distinct: int = 30
) -> tuple[Longs, Doubles, Labels, Doubles]:
    """Rows with ties, unknown labels and weights: user, score in [0, 1], label, weight."""
    generator = np.random.default_rng(seed)
    score = generator.integers(distinct, size=rows) / distinct
    label = np.where(generator.random(rows) < 0.1, -1, generator.random(rows) < score).astype(np.int8)
    return (
        generator.integers(people, size=rows),
        score,
        label,
        generator.integers(1, 4, size=rows).astype(float),
    )


# Point metrics


def test_auc_counts_ties_half() -> None:
    # Pairs (positive, negative): (.8, .5) won, (.8, .8) tied, (.3, .5) and (.3, .8) lost.
    measure = auc(users(1, 1, 2, 2), floats(0.8, 0.5, 0.3, 0.8), labels(1, 0, 1, 0))
    assert measure.value() == pytest.approx(1.5 / 4)
    assert measure.n == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_and_logloss_agree_with_scikit_learn(dtype: type[np.floating]) -> None:
    user, score, label, weight = many(0)
    score = score.astype(dtype)
    known = label >= 0
    kept = label[known], score[known]
    assert auc(user, score, label).value() == pytest.approx(roc_auc_score(*kept), abs=1e-12)
    weighted = roc_auc_score(*kept, sample_weight=weight[known])
    assert auc(user, score, label, weight).value() == pytest.approx(weighted, abs=1e-12)
    expected = log_loss(*kept, sample_weight=weight[known])
    assert logloss(user, score, label, weight).value() == pytest.approx(expected, rel=1e-6)
    assert logloss(user, score, label).n == known.sum()


def test_auc_orders_infinite_scores() -> None:
    measure = auc(users(1, 1, 1, 1), floats(-np.inf, -np.inf, 0, np.inf), labels(0, 1, 0, 1))
    assert measure.value() == pytest.approx(2.5 / 4)


def test_gauc_weighs_users_by_impressions_and_leaves_out_one_class() -> None:
    # User 1: AUC 1 on 2 rows; user 2: AUC 1/4 (one tie of two pairs) on 3; user 3 has clicks alone.
    measure = gauc(users(1, 2, 2, 1, 2, 3), floats(0.9, 0.4, 0.6, 0.1, 0.4, 0.7), labels(1, 1, 0, 0, 0, 1))
    assert measure.value() == pytest.approx((2 * 1 + 3 * 0.25) / 5)
    assert measure.n == 2


@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_is_the_weighted_mean_of_users_auc(weighted: bool) -> None:
    user, score, label, weight = many(1, rows=150, people=40)
    if not weighted:
        weight = np.ones_like(weight)
    over = under = 0.0
    for person in np.unique(user):
        mine = (user == person) & (label >= 0)
        if len(set(label[mine])) == 2:
            over += weight[mine].sum() * roc_auc_score(label[mine], score[mine], sample_weight=weight[mine])
            under += weight[mine].sum()
    assert gauc(user, score, label, weight).value() == pytest.approx(over / under, abs=1e-12)


def test_pcoc_and_ece_by_hand() -> None:
    user, label = users(1, 1, 2, 2, 2), labels(1, 0, 0, 1, -1)
    p = floats(0.5, 0.1, 0.1, 0.9, 0.6)
    assert pcoc(user, p, label).value() == pytest.approx(1.6 / 2)
    # Two bins of two rows: |0.2 − 0| and |1.4 − 2|, over four rows.
    assert ece(user, p, label, bins=2).value() == pytest.approx(0.8 / 4)
    # With the last row doubled, mass 5: bins {.1, .1, .5} (its middle is half way up) and {.9, .9}.
    doubled = floats(1, 1, 1, 2, 1)
    assert pcoc(user, p, label, doubled).value() == pytest.approx(2.5 / 3)
    assert ece(user, p, label, doubled, bins=2).value() == pytest.approx((abs(0.2) + abs(2.3 - 3)) / 5)


def test_ece_of_a_constant_prediction_is_the_distance_to_the_rate() -> None:
    label = labels(*[1] * 30, *[0] * 70)
    assert ece(np.arange(100), np.full(100, 0.3), label).value() == pytest.approx(0, abs=1e-12)
    assert ece(np.arange(100), np.full(100, 0.5), label).value() == pytest.approx(0.2)


def test_truth_auc_is_that_of_expected_pairs() -> None:
    score, p = floats(0.9, 0.5, 0.5, 0.1), floats(0.8, 0.3, 0.6, 0.05)
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    pairs = p[:, None] * (1 - p)
    expected = (won * pairs).sum() / pairs.sum()
    assert truth_auc(users(1, 1, 1, 1), score, p).value() == pytest.approx(expected)


def test_truth_auc_of_certain_truth_is_auc() -> None:
    user, score, label, weight = many(2)
    known = label >= 0
    certain = truth_auc(user[known], score[known], label[known].astype(float), weight[known])
    assert certain.value() == pytest.approx(auc(user, score, label, weight).value())


def test_cut_auc_leaves_out_what_an_earlier_stage_cut() -> None:
    # Levels: 0 retrieved, 1 preranked, 2 ranked, 3 exposed. The ranker cuts 1 and never saw 0.
    level, score = np.array([0, 1, 2, 3, 1], dtype=np.uint8), floats(0.99, 0.5, 0.4, 0.9, 0.1)
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [1]).value() == pytest.approx(3 / 4)
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [1]).n == 4
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [0, 1]).value() == pytest.approx(3 / 6)


@pytest.mark.parametrize("metric", POINT)
def test_nothing_known_has_no_value(metric: Point) -> None:
    for label in (labels(), labels(-1, -1)):
        empty = metric(np.arange(len(label)), np.full(len(label), 0.5), label)
        assert (empty.value(), empty.n, interval(empty)) == (None, 0, None)


@pytest.mark.parametrize("clicked", [0, 1])
def test_one_class_has_no_auc(clicked: int) -> None:
    rows = users(1, 2), floats(0.2, 0.7), labels(clicked, clicked)
    assert auc(*rows).value() is None
    assert gauc(*rows).value() is None
    assert pcoc(*rows).value() == (pytest.approx(0.45) if clicked else None)
    loss = logloss(*rows).value()
    assert loss is not None and loss > 0


def test_bad_rows_are_named() -> None:
    with pytest.raises(DataError, match=r"labels: row 1 is 2; expected 1, 0, or -1"):
        auc(users(1, 1), floats(0.1, 0.2), labels(1, 2))
    with pytest.raises(DataError, match=r"scores: 1 are NaN, first at row 1"):
        auc(users(1, 1), floats(0.1, np.nan), labels(1, 0))
    with pytest.raises(DataError, match=r"predictions: 3.5 is no probability"):
        logloss(users(1, 1), floats(0.1, 3.5), labels(1, 0))
    with pytest.raises(DataError, match=r"truth: -0.1 is no probability"):
        truth_auc(users(1, 1), floats(0.1, 0.2), floats(-0.1, 0.5))


def test_unknown_rows_may_hold_anything() -> None:
    assert auc(users(1, 1, 1), floats(0.1, np.nan, 0.2), labels(0, -1, 1)).value() == 1


# Parts and intervals


@pytest.mark.parametrize("metric", POINT)
def test_parts_by_user_merge_to_the_whole(metric: Point) -> None:
    user, score, label, weight = many(3)
    parts = [
        metric(*(column[user % 3 == part] for column in (user, score, label, weight))) for part in range(3)
    ]
    whole = metric(user, score, label, weight)
    merged = type(whole).merge(parts)
    assert merged.value() == pytest.approx(whole.value(), abs=1e-12)
    assert merged.n == whole.n
    assert interval(merged, seed=5) == pytest.approx(interval(whole, seed=5), abs=1e-12)


def test_every_metric_counts_a_row_as_often_as_its_user_is_drawn() -> None:
    user, score, label, _ = many(4, rows=120, people=6)
    drawn = np.array([0, 1, 3, 0, 2, 1])
    repeated = np.repeat(np.arange(len(user)), drawn[user])
    for metric in POINT:
        measure = metric(user, score, label)
        resampled = metric(user[repeated], score[repeated], label[repeated])
        assert measure.value(drawn[measure.user].astype(float)) == pytest.approx(resampled.value(), abs=1e-12)


def test_interval_of_a_mean_is_that_of_theory() -> None:
    # 400 users with one prediction each: the error of their mean is its standard deviation / √400.
    p = np.random.default_rng(1).random(400)
    measure = RatioMeasure.of(np.arange(400), p, np.ones(400), n=400)
    low, high = bounds(measure, count=20_000)
    assert low < p.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * p.std() / 20, rel=0.02)


def test_interval_grows_when_a_users_rows_are_alike() -> None:
    p = np.random.default_rng(2).random(100)
    alike, apart = np.repeat(np.arange(100), 25), np.arange(2500)
    rows = np.repeat(p, 25), np.ones(2500)
    wide, narrow = (np.diff(bounds(RatioMeasure.of(user, *rows, n=2500)))[0] for user in (alike, apart))
    assert wide == pytest.approx(5 * narrow, rel=0.25)


def test_interval_of_auc_covers_it_and_is_reproducible() -> None:
    user, score, label, _ = many(5, rows=2000, people=300)
    measure = auc(user, score, label)
    low, high = bounds(measure, seed=1)
    value = measure.value()
    assert value is not None and low < value < high < low + 0.1
    assert interval(measure, seed=1) == (low, high) != interval(measure, seed=2)


def test_replicates_of_two_stages_are_paired() -> None:
    user, score, label, _ = many(6, rows=1000, people=100)
    better, same = replicates(auc(user, score, label)), replicates(auc(user, score**2, label))
    assert (better == same).all()
    worse = replicates(auc(user, np.random.default_rng(0).permutation(score), label))
    assert (better > worse).all()


def test_undefined_resamples_are_left_out() -> None:
    # Drawn alone, either user has one class: AUC exists where both are drawn, and is then 1.
    measure = auc(users(1, 2), floats(0.9, 0.1), labels(1, 0))
    values = replicates(measure)
    assert 50 < np.isnan(values).sum() < 150
    assert interval(measure) == (1, 1)


def test_a_single_user_has_no_interval() -> None:
    assert interval(auc(users(1, 1), floats(0.9, 0.1), labels(1, 0))) is None


def test_ordered_measures_keep_their_formula_when_merged() -> None:
    rows = users(1, 2), floats(0.9, 0.1), labels(1, 0)
    assert OrderMeasure.merge([ece(*rows, bins=1), ece(*rows, bins=1)]).value() == pytest.approx(0)
