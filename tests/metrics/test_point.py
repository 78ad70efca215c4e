"""Metrics of single rows, against scikit-learn and by hand; reliability; and the regret of selection bias."""

import numpy as np
import pytest

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.point import (
    Labels,
    auc,
    bias_regret,
    cut_auc,
    ece,
    gauc,
    logloss,
    pcoc,
    reliability,
    truth_auc,
)
from tests.support.scored_requests import floats, labels


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_and_logloss_agree_with_scikit_learn(dtype: type[np.floating]) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

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


@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_is_the_weighted_mean_of_users_auc(weighted: bool) -> None:
    from sklearn.metrics import roc_auc_score

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


def test_truth_auc_is_that_of_expected_pairs() -> None:
    score, p = floats(0.9, 0.5, 0.5, 0.1), floats(0.8, 0.3, 0.6, 0.05)
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    pairs = p[:, None] * (1 - p)
    expected = (won * pairs).sum() / pairs.sum()
    assert truth_auc(users(1, 1, 1, 1), score, p).value() == pytest.approx(expected)


def test_cut_auc_leaves_out_what_an_earlier_stage_cut() -> None:
    # Levels: 0 retrieved, 1 preranked, 2 ranked, 3 exposed. The ranker cuts 1 and never saw 0.
    level, score = np.array([0, 1, 2, 3, 1], dtype=np.uint8), floats(0.99, 0.5, 0.4, 0.9, 0.1)
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [1]).value() == pytest.approx(3 / 4)
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [1]).n == 4
    assert cut_auc(users(1, 1, 1, 1, 1), score, level, [0, 1]).value() == pytest.approx(3 / 6)


def test_bad_rows_are_named() -> None:
    with pytest.raises(DataError, match=r"labels: row 1 is 2; expected 1, 0, or -1"):
        auc(users(1, 1), floats(0.1, 0.2), labels(1, 2))
    with pytest.raises(DataError, match=r"scores: 1 are NaN, first at row 1"):
        auc(users(1, 1), floats(0.1, np.nan), labels(1, 0))
    with pytest.raises(DataError, match=r"predictions: 3.5 is no probability"):
        logloss(users(1, 1), floats(0.1, 3.5), labels(1, 0))
    with pytest.raises(DataError, match=r"truth: -0.1 is no probability"):
        truth_auc(users(1, 1), floats(0.1, 0.2), floats(-0.1, 0.5))


# Parts and intervals


def test_a_bin_for_every_ten_positives_on_average() -> None:
    """Twenty positives in 40 rows: two bins of 20 rows, the lower with 5 positives, the upper with 15."""
    from scipy.stats import beta

    predicted = np.repeat([0.1, 0.3, 0.6, 0.8], 10).astype(np.float32)
    positive = np.zeros(40, bool)
    positive[:5] = positive[20:35] = True
    shuffled = np.random.default_rng(0).permutation(40)
    bins = reliability(predicted[shuffled], positive[shuffled], np.ones(40, np.float32))
    assert bins.predicted == pytest.approx([0.2, 0.7])
    assert bins.observed == pytest.approx([0.25, 0.75])
    assert bins.low[0] == pytest.approx(beta.ppf(0.025, 5.5, 15.5))
    assert bins.high[1] == pytest.approx(beta.ppf(0.975, 15.5, 5.5))


def test_bias_regret_by_hand() -> None:
    # Certain truth 1 0 1 0: the reference has all four pairs right, the model three.
    user, truth = np.array([1, 1, 2, 2]), floats(1, 0, 1, 0)
    measure = bias_regret(user, floats(4, 1, 3, 2), floats(4, 1, 2, 3), truth)
    assert (measure.value(), measure.n) == (0.25, 4)
    assert measure.user.tolist() == [1, 2]
    # The last row counted thrice: of 8 pairs the model has one of two with it wrong, three times.
    weighed = bias_regret(user, floats(4, 1, 3, 2), floats(4, 1, 2, 3), truth, floats(1, 1, 1, 3))
    assert weighed.value() == pytest.approx(3 / 8)
