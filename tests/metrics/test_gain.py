from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from corank.core.errors import DataError
from corank.metrics.cascade import best_score_loss, gain_ratio, ndcg, score_loss
from corank.metrics.intervals import interval
from tests.support.scored_requests import Scored, floats, order, requests, rows_of, scored


def test_score_loss_by_hand() -> None:
    # Request 0: its top 2 are worth .9 + .5, the stage's .5 + .1. Request 1 is worth nothing, 2 is uncut.
    three = requests(3, 3, 2)
    scores = floats(0.9, 0.5, 0.1, 0, 0, 0, 0.3, 0.2)
    stage = three.ranks(floats(1, 2, 3, 1, 2, 3, 1, 2))
    measure = score_loss(three, scores, stage, n=2)
    assert (measure.value(), measure.n) == (pytest.approx(1 - 0.6 / 1.4), 1)
    assert measure.random_value() == pytest.approx(1 - 2 * 0.5 / 1.4)


def test_gain_ratio_by_hand() -> None:
    # The stage's top 3 hold .2, .5 and .1, of which the ranker takes .5 and .2; its own two are .9 and .5.
    three = requests(4, 4, 3)
    scores = floats(0.9, 0.5, 0.2, 0.1, 0, 0, 0, 0, 0.3, 0.2, 0.1)
    stage = three.ranks(floats(1, 3, 4, 2, 1, 2, 3, 4, 1, 2, 3))
    measure = gain_ratio(three, scores, stage, k=2, m=3)
    assert (measure.value(), measure.n) == (pytest.approx(0.7 / 1.4), 1)
    # Of the four triples that a random order keeps, three hold .9, three .5; by their two best:
    expected = np.mean([0.9 + 0.5, 0.9 + 0.5, 0.9 + 0.2, 0.5 + 0.2]) / 1.4
    assert measure.random_value() == pytest.approx(expected)


def test_best_score_loss_by_hand() -> None:
    two = requests(4, 2)
    scores, stage = floats(0.9, 0.5, 0.2, 0.1, 3, 4), two.ranks(floats(1, 3, 4, 2, 2, 1))
    measure = best_score_loss(two, scores, stage, m=2)  # it keeps .2 and .5
    assert (measure.value(), measure.n) == (pytest.approx(0.4), 1)
    pairs = [max(pair) for pair in combinations((0.9, 0.5, 0.2, 0.1), 2)]
    assert measure.random_value() == pytest.approx(0.9 - np.mean(pairs))
    # Logits are valid: it is a difference.
    assert best_score_loss(two, scores - 1, stage, m=1).value() == pytest.approx((0.7 + 1) / 2 - 0.0)


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


def test_random_gain_of_a_long_request() -> None:
    # Binomials beyond a double's range; the mean of the best m of n of the ranks 0 to n − 1 is known.
    n, m = 5000, 2000
    long = requests(n)
    scores = np.arange(n, dtype=np.float64)
    measure = best_score_loss(long, scores, np.arange(n), m)
    assert measure.random_value() == pytest.approx(n - 1 - (m * (n + 1) / (m + 1) - 1), rel=1e-6)


def test_ndcg_by_hand() -> None:
    # Gains 3 2 1 0 by the ranker; the stage's top 3 hold the gains 1, 3 and 0.
    two = requests(4, 3)
    measure = ndcg(two, np.array([0, 1, 2, 3, 0, 1, 2]), np.array([1, 3, 0, 2, 0, 1, 2]), k=3)
    ideal = 3 + 2 / np.log2(3) + 1 / 2
    assert measure.value() == pytest.approx((1 + 3 / np.log2(3)) / ideal)
    assert measure.n == 1  # the second request has no more than three
    assert measure.random_value() == pytest.approx(6 / 4 * (1 + 1 / np.log2(3) + 1 / 2) / ideal)


@given(st.lists(st.permutations(range(9)), min_size=1, max_size=5), st.integers(1, 8))
def test_ndcg_agrees_with_scikit_learn(orders: list[list[int]], k: int) -> None:
    some = requests(*[9] * len(orders))
    reference = np.tile(np.arange(9), len(orders))
    stage = np.concatenate(orders)
    gain = np.maximum(k - reference, 0).reshape(-1, 9)
    assert ndcg(some, reference, stage, k).value() == pytest.approx(
        ndcg_score(gain, -stage.reshape(-1, 9), k=k, ignore_ties=True)
    )


def test_the_rankers_own_order_loses_nothing() -> None:
    some = requests(9, 5)
    scores = np.random.default_rng(0).random(14)
    places = some.ranks(scores)
    assert ndcg(some, places, places, 3).value() == pytest.approx(1)
    assert gain_ratio(some, scores, places, 3, 4).value() == 1
    assert (
        score_loss(some, scores, places, 3).value() == best_score_loss(some, scores, places, 3).value() == 0
    )


def test_nothing_eligible_has_no_value() -> None:
    for few in (requests(), requests(0), requests(1, 1), requests(2, 2)):
        scores = np.linspace(0, 1, int(few.start[-1]))
        places = few.ranks(scores)
        for measure in (
            score_loss(few, scores, places, n=2),
            best_score_loss(few, scores, places, m=2),
            gain_ratio(few, scores, places, k=1, m=2),
            ndcg(few, places, places, k=2),
        ):
            assert (measure.value(), measure.random_value(), measure.n, interval(measure)) == (
                None,
                None,
                0,
                None,
            )
