import numpy as np
import pytest
from numpy.typing import NDArray

from corank.core.types import Doubles
from corank.metrics import off_policy
from corank.metrics.intervals import interval
from corank.metrics.pages import (
    broken_slots,
    catalogue_spread,
    distinct_values,
    list_distance,
    page_clicks,
    page_near_clicks,
    page_sum,
    satiated,
    value_entropy,
)
from corank.metrics.requests import Requests

REQUESTS = Requests(np.array([0, 4, 7]), np.array([5, 6]))
SLOT = np.array([1, -1, 0, 2, -1, 0, 1])
LISTED = SLOT >= 0
CATEGORY = np.array([3, 3, 3, 8, 1, 1, 1])


def test_users_tire_of_what_stands_above() -> None:
    truth = np.array([0.5, 0.5, 0.4, 0.2, 0.9, 0.8, 0.6])
    expected = [0.35, 0.5, 0.4, 0.2, 0.9, 0.8, 0.42]
    np.testing.assert_allclose(satiated(REQUESTS, truth, CATEGORY, SLOT, 0.3), expected)
    np.testing.assert_allclose(satiated(REQUESTS, truth, CATEGORY, SLOT, 0.0), truth)


def test_the_value_of_a_page_is_the_sum_of_what_it_shows() -> None:
    value = np.array([0.5, 9.0, 0.25, 0.25, 9.0, 1.0, 2.0])
    measure = page_sum(REQUESTS, LISTED, value)
    assert measure.value() == pytest.approx((1.0 + 3.0) / 2)
    assert measure.random_value() == pytest.approx((10 / 4 * 3 + 12 / 3 * 2) / 2)


def test_clicks_of_a_page_are_estimated_from_the_random_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy, "LEAST_EFFECTIVE", 0.0)
    nan = np.nan
    propensity = np.array([0.5, 0.5, 0.5, 0.5, nan, nan, nan])
    exposed = np.array([True, False, True, False, True, True, True])
    clicked = np.array([True, False, False, False, True, True, True])
    assert page_clicks(REQUESTS, LISTED, clicked, exposed, propensity).value() == pytest.approx(2.0)


def test_clicks_of_a_page_count_what_its_like_take() -> None:
    """The share of clicks that is left is found, though what has more of its like is worth more."""
    rng, count, size, shown = np.random.default_rng(0), 16_000, 30, 8
    requests = Requests(np.arange(count + 1) * size, np.arange(count))
    category = rng.integers(0, 5, (count, size))
    alone = np.where(category == 0, 0.4, 0.2)
    exposed = rng.permuted(np.tile(np.arange(size) < shown, (count, 1)), axis=1)
    alike = np.stack([((category == c) & exposed).sum(axis=1) for c in range(5)], axis=1)
    alike = np.take_along_axis(alike, category, axis=1) - 1
    clicked = exposed & (rng.random((count, size)) < alone * 0.6 ** np.minimum(alike, 3))
    column = category.reshape(-1), np.arange(count * size)
    drawn = np.full(count * size, shown / size)

    def estimate(
        listed: NDArray[np.bool_], propensity: Doubles = drawn, expected: float = 0.1
    ) -> float | None:
        flat = listed.reshape(-1), clicked.reshape(-1), exposed.reshape(-1)
        measure = page_near_clicks(requests, *flat, propensity, np.full(count * size, expected), column)
        return measure.value()

    alone_of_its_kind = np.tile(np.arange(size) == 0, (count, 1))
    pair = category == category[:, :1]
    pair &= pair.cumsum(axis=1) <= 2
    one, two = estimate(alone_of_its_kind), estimate(pair)
    pairs = pair.sum(axis=1).mean()
    assert one is not None and two is not None
    assert two / one == pytest.approx((pairs - 1) * 2 * 0.6 + (2 - pairs), rel=0.05)
    assert estimate(pair, expected=0.3) == pytest.approx(
        two
    )  # what is expected counts against other candidates alone
    assert estimate(pair, np.full(count * size, np.nan)) is None
    lone = clicked & (alike == 0)  # of more alike no click tells
    few = page_near_clicks(
        requests,
        pair.reshape(-1),
        lone.reshape(-1),
        exposed.reshape(-1),
        drawn,
        np.full(len(drawn), 0.1),
        column,
    )
    assert (few.value() or 0) > 0 and few.n == count
    assert (
        estimate(pair, np.where(np.arange(len(drawn)) < 300 * size, drawn, np.nan)) is None
    )  # too few clicks
    uneven = rng.uniform(0.2, 0.3, count * size)
    assert estimate(pair, uneven) is None  # how many are alike by chance is not known


def test_diversity_of_pages() -> None:
    column = CATEGORY, np.arange(7)
    assert distinct_values(REQUESTS, LISTED, column).value() == pytest.approx(1.5)
    entropy = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))
    assert value_entropy(REQUESTS, LISTED, column).value() == pytest.approx(entropy / 2)
    tags = np.array([0, 1, 0, 2]), np.array([0, 0, 2, 5])  # of lists each value counts
    assert distinct_values(REQUESTS, LISTED, tags).value() == pytest.approx(1.5)
    assert list_distance(REQUESTS, np.array([0.25, np.nan])).value() == 0.25
    assert broken_slots(REQUESTS, LISTED, np.array([1.0, 0.0])).value() == pytest.approx(1 / 5)


def test_the_spread_over_the_catalogue() -> None:
    item = np.array([0, 1, 2, 3, 0, 0, 2])
    coverage = catalogue_spread(REQUESTS, LISTED, item, 10, "coverage")
    assert coverage.value() == pytest.approx(3 / 10) and coverage.n == 5
    gini = catalogue_spread(REQUESTS, LISTED, item, 4, "gini")
    shown = np.array([2, 0, 2, 1])
    slow = np.abs(shown[:, None] - shown).sum() / (2 * 4 * shown.sum())
    assert gini.value() == pytest.approx(slow)
    assert catalogue_spread(REQUESTS, SLOT > 9, item, 4, "gini").value() is None


def test_intervals_of_coverage_hold_its_value() -> None:
    rng = np.random.default_rng(0)
    requests = Requests(np.arange(0, 501, 5), np.arange(100))
    item = rng.zipf(1.5, 500) % 80
    for what in ("coverage", "gini"):
        measure = catalogue_spread(requests, np.ones(500, dtype=bool), item, 80, what)
        low, high = interval(measure) or (1.0, 0.0)
        assert low < (measure.value() or 0.0) < high
