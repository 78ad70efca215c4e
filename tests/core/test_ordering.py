import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.ordering import SOFT_WIDTH, soft_ranks, stable_order, top_k
from corank.core.types import Floats

UNIT = math.sqrt(12)


def placed(scores: list[float], start: list[int] | None = None, weight: list[float] | None = None) -> Floats:
    w = None if weight is None else np.array(weight, np.float32)
    ranks = soft_ranks(np.array(scores, np.float32), np.array(start or [0, len(scores)]), w)
    assert ranks.dtype == np.float32
    return ranks


def shares(scores: list[float], start: list[int] | None = None, weight: list[float] | None = None) -> Floats:
    """p, of which a place is (½ − p)·√12."""
    return 0.5 - placed(scores, start, weight) / UNIT


def near(found: Floats, expected: list[float], within: float = 1e-6) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=within)


# Whatever the scores: some far apart, some close, some alike
scores = st.builds(lambda base, more: base + more / 80, st.integers(-3, 3), st.integers(-9, 9)) | st.floats(
    -20, 20, width=32
)
requests = st.lists(
    st.lists(st.tuples(scores, st.sampled_from([0, 1, 1, 2.5, 30])), max_size=8), min_size=1, max_size=6
)


@pytest.mark.parametrize("weighted", [False, True])
@given(requests)
def test_places_are_those_of_the_formula(weighted: bool, made: list[list[tuple[float, float]]]) -> None:
    expected = []
    for request in made:
        z, w = ([float(np.float32(one[n])) for one in request] for n in (0, 1))
        w = w if weighted else [1] * len(z)
        for i in range(len(z)):
            clipped = [min(max((other - z[i]) / (2 * SOFT_WIDTH) + 0.5, 0), 1) for other in z]
            share = sum(r * v for r, v in zip(clipped, w, strict=True)) / (sum(w) or 1)
            expected.append((0.5 - share) * UNIT)
    flat = [one for request in made for one in request]
    start = [0, *np.cumsum([len(request) for request in made]).tolist()]
    places = placed([z for z, _ in flat], start, [w for _, w in flat] if weighted else None)
    near(places, expected)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]), max_size=40), st.integers(1, 45))
def test_top_k_is_the_begin_of_a_stable_order(scores: list[float], k: int) -> None:
    """Few distinct values: ties for the last place are the rule."""
    score = np.array(scores, dtype=np.float32)
    assert top_k(score, k).tolist() == np.argsort(-score, kind="stable")[:k].tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_top_k_leaves_out_nan(k: int) -> None:
    scores = np.array([np.nan, 1.0, np.nan, 2.0])
    assert set(top_k(scores, k).tolist()) <= {1, 3}
    assert top_k(scores[:0], k).tolist() == []


@pytest.mark.parametrize("at_once", [False, True])
@given(values=st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_equal_keys_keep_their_order(values: list[int], at_once: bool) -> None:
    keys = np.array(values * 2, np.int32)
    order = stable_order(keys, at_once)
    assert order.dtype == np.int64
    assert order.tolist() == np.argsort(keys, kind="stable").tolist()
