import numpy as np
import pytest

from corank.core.errors import DataError
from corank.core.types import Doubles
from corank.metrics.intervals import interval, replicates
from corank.metrics.measure import Keys
from corank.metrics.point import PairedDifference, auc, bias_regret, truth_auc
from tests.support.scored_requests import bounds, floats


def rows(seed: int, count: int = 600, people: int = 25) -> tuple[Keys, Doubles, Doubles, Doubles]:
    """Users, and scores of a good and a worse model of the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.random(count)
    good = truth + generator.normal(size=count) / 5
    return generator.integers(people, size=count), good, good + generator.normal(size=count) / 2, truth


def test_bias_regret_by_hand() -> None:
    # Certain truth 1 0 1 0: the reference has all four pairs right, the model three.
    user, truth = np.array([1, 1, 2, 2]), floats(1, 0, 1, 0)
    measure = bias_regret(user, floats(4, 1, 3, 2), floats(4, 1, 2, 3), truth)
    assert (measure.value(), measure.n) == (0.25, 4)
    assert measure.user.tolist() == [1, 2]
    # The last row counted thrice: of 8 pairs the model has one of two with it wrong, three times.
    weighed = bias_regret(user, floats(4, 1, 3, 2), floats(4, 1, 2, 3), truth, floats(1, 1, 1, 3))
    assert weighed.value() == pytest.approx(3 / 8)


def test_a_model_has_no_regret_of_itself() -> None:
    user, good, _, truth = rows(0)
    measure = bias_regret(user, good, good, truth)
    assert measure.value() == 0
    assert interval(measure) == (0, 0)


def test_resamples_are_paired() -> None:
    user, good, worse, truth = rows(1)
    measure = bias_regret(user, good, worse, truth)
    one, other = (replicates(truth_auc(user, scores, truth), seed=4) for scores in (good, worse))
    assert replicates(measure, seed=4) == pytest.approx(one - other)
    low, high = bounds(measure)
    regret = measure.value()
    assert regret is not None and 0 < low < regret < high
    # far tighter than two intervals apart
    assert (one - other).std() < 0.8 * np.hypot(one.std(), other.std())


def test_parts_merge_to_the_whole() -> None:
    user, good, worse, truth = rows(2)
    whole = bias_regret(user, good, worse, truth)
    halves = [
        bias_regret(*(column[user % 2 == part] for column in (user, good, worse, truth))) for part in (0, 1)
    ]
    merged = PairedDifference.merge(halves)
    assert (merged.value(), merged.n) == (pytest.approx(whole.value()), whole.n)
    assert interval(merged, seed=3) == pytest.approx(interval(whole, seed=3))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_order_has_no_value(count: int) -> None:
    user, p = np.arange(count), np.ones(count)
    measure = bias_regret(user, p, p, p)
    assert (measure.value(), interval(measure)) == (None, None)


def test_other_users_are_refused() -> None:
    label = np.array([1, 0])
    with pytest.raises(DataError, match="needs two measures of the same users"):
        PairedDifference(
            auc(np.array([1, 2]), floats(1, 2), label),
            auc(np.array([1, 3]), floats(1, 2), label),
        )
