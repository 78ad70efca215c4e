import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import expit

from corank.core.calibration import Platt, fit
from corank.core.errors import DataError
from corank.core.types import Doubles, Floats

FINITE = st.floats(-30, 30, width=32)


def drawn(
    rows: int = 5000, slope: float = 0.5, intercept: float = -1.0, seed: int = 0
) -> tuple[Doubles, NDArray[np.int8]]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(1, 2, size=rows)
    return logits, (generator.random(rows) < expit(slope * logits + intercept)).astype(np.int8)


def test_fit_by_hand() -> None:
    # At logit 0 one of four clicks, at logit 1 one of two: intercept ln(1/3), slope ln 3; repeated, so that
    # the term that keeps the slope finite is worth nothing.
    logits, labels = np.array([0, 0, 0, 0, 1, 1.0]), np.array([1, 0, 0, 0, 1, 0], dtype=np.int8)
    platt = fit(logits, labels, np.full(6, 1e6))
    assert platt.slope == pytest.approx(math.log(3), abs=1e-4)
    assert platt.intercept == pytest.approx(-math.log(3), abs=1e-4)


def test_fit_is_maximum_likelihood() -> None:
    from sklearn.linear_model import LogisticRegression

    logits, labels = drawn()
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    platt = fit(logits, labels)
    assert platt.slope == pytest.approx(reference.coef_[0, 0], rel=1e-3)
    assert platt.intercept == pytest.approx(reference.intercept_[0], rel=2e-3)


def test_a_weight_counts_a_row_as_often() -> None:
    logits, labels = drawn(300)
    weight = np.random.default_rng(1).integers(0, 4, size=300)
    repeated = fit(np.repeat(logits, weight), np.repeat(labels, weight))
    weighted = fit(logits, labels, weight.astype(np.float32))
    assert weighted.slope == pytest.approx(repeated.slope, rel=1e-5)
    assert weighted.intercept == pytest.approx(repeated.intercept, rel=1e-5)


@given(arrays(np.float32, st.integers(2, 60), elements=FINITE), st.data())
def test_pcoc_on_the_rows_of_the_fit_is_1(logits: Floats, data: st.DataObject) -> None:
    labels = data.draw(arrays(np.int8, len(logits), elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    platt = fit(logits, labels)
    assert platt.apply(logits.astype(np.float64)).sum() == pytest.approx(labels.sum(), rel=1e-4)


@given(st.lists(FINITE, min_size=2, max_size=50, unique=True), st.data())
def test_order_is_kept(logits: list[float], data: st.DataObject) -> None:
    labels = data.draw(arrays(np.int8, len(logits), elements=st.integers(-1, 1)))
    ascending = np.sort(np.array(logits))
    platt = fit(np.array(logits), labels)
    assert platt.slope > 0
    assert (np.diff(platt.apply(ascending)) >= 0).all()


def test_classes_that_logits_part_have_a_finite_slope() -> None:
    logits, labels = np.array([-2, -1, 1, 2.0]), np.array([0, 0, 1, 1], dtype=np.int8)
    platt = fit(logits, labels)
    assert 1 < platt.slope < 10
    assert platt.intercept == pytest.approx(0, abs=1e-6)


def test_a_stage_that_orders_backwards_keeps_a_slope_above_0() -> None:
    logits, labels = drawn(slope=-2.0)
    platt = fit(logits, labels)
    assert 0 < platt.slope < 0.05
    assert platt.apply(logits).mean() == pytest.approx(labels.mean(), rel=1e-4)


def test_nothing_known_leaves_the_identity() -> None:
    for labels in ([], [-1, -1]):
        assert fit(np.zeros(len(labels)), np.array(labels, dtype=np.int8)) == Platt(1.0, 0.0)


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(DataError, match=r"logits: 1 of 2 are not finite; did training diverge\?"):
        fit(np.array([0, np.inf]), np.array([0, 1], dtype=np.int8))


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        (0.0, 0.0),
        (math.nan, 0.0),
    ],
)
def test_a_calibrator_that_would_break_the_order_is_refused(slope: float, intercept: float) -> None:
    with pytest.raises(DataError, match="expected a finite slope above 0"):
        Platt(slope, intercept)
