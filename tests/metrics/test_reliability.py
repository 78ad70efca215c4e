import numpy as np
import pytest

from corank.metrics.point import reliability


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


def test_weights_fill_the_bins() -> None:
    """A row of weight 3 counts thrice in mass and rate; the interval sees 36 / 12 rows of weight 1 in three."""
    from scipy.stats import beta

    weight = np.array([3, 3, 1, 1, 1], np.float32)
    bins = reliability(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([1, 0, 0, 0, 1], bool), weight)
    assert bins.predicted == pytest.approx([(0.3 + 0.6 + 0.3 + 0.4 + 0.5) / 9])
    assert bins.observed == pytest.approx([4 / 9])
    rows = 81 / 21
    assert bins.low[0] == pytest.approx(beta.ppf(0.025, 4 / 9 * rows + 0.5, 5 / 9 * rows + 0.5))


def test_bins_are_at_most_ten() -> None:
    bins = reliability(np.linspace(0, 1, 1000), np.ones(1000, bool), np.ones(1000))
    assert len(bins.predicted) == 10
    assert bins.predicted[0] == pytest.approx(np.linspace(0, 1, 1000)[:100].mean())
    assert bins.rows.tolist() == [100] * 10
