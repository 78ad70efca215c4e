"""Exact search against plain NumPy, to the last tie."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from corank.core.errors import ConfigError
from corank.core.settings import validate
from corank.core.stored_matrix import Precision, StoredMatrix
from corank.core.types import Floats
from corank.core.vector_search import BLOCK, RetrievalSettings, search_vectors

# small whole numbers: every product is exact, and many tie
numbers = st.integers(-2, 2).map(float)
shapes = st.tuples(st.integers(0, 30), st.integers(1, 5))


@st.composite
def worlds(draw: Callable[..., Any]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Vectors, a query and which rows are allowed."""
    items, d = draw(shapes)
    vectors = draw(arrays.arrays(np.float32, (items, d), elements=numbers))
    query = draw(arrays.arrays(np.float32, d, elements=numbers))
    return vectors, query, draw(arrays.arrays(np.bool_, items))


@given(worlds(), st.integers(1, 40))
def test_a_search_finds_the_largest_products_and_ties_by_position(
    world: tuple[Floats, Floats, NDArray[np.bool_]], k: int
) -> None:
    vectors, query, mask = world
    order = np.argsort(-(vectors @ query), kind="stable")
    for allowed, expected in ((None, order), (np.flatnonzero(mask), order[mask[order]])):
        rows, scores = search_vectors(StoredMatrix(vectors), query, k, allowed)
        assert rows.tolist() == expected[:k].tolist()
        np.testing.assert_array_equal(scores, vectors[rows] @ query)


@pytest.mark.parametrize("d", [1, 2, 4, 8, 12, 16, 37])
def test_equal_vectors_tie_wherever_they_lie(d: int) -> None:
    random = np.random.default_rng(d)
    vector, query = random.standard_normal((2, d)).astype(np.float32)
    vectors = random.standard_normal((BLOCK + 1001, d)).astype(np.float32)
    mask = random.random(len(vectors)) < 0.3
    vectors[mask] = vector
    for allowed in (None, np.flatnonzero(mask)):
        rows, scores = search_vectors(StoredMatrix(vectors), query, len(vectors), allowed)
        alike = scores[mask[rows]]
        assert len(alike) == mask.sum() and len(set(alike.tolist())) == 1
        assert (np.diff(rows)[np.diff(scores) == 0] > 0).all()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_is_scored_by_the_stored_rows(precision: Precision) -> None:
    random = np.random.default_rng(0)
    stored = StoredMatrix.encode(random.standard_normal((BLOCK + 9, 8)).astype(np.float32), precision)
    query, some = random.standard_normal(8).astype(np.float32), np.arange(0, len(stored), 2)
    for allowed in (None, some):
        rows, scores = search_vectors(stored, query, 100, allowed)
        np.testing.assert_allclose(scores, stored.take(rows) @ query, rtol=1e-5, atol=1e-6)
    assert (rows % 2 == 0).all()


def test_a_query_that_is_no_number_finds_nothing() -> None:
    query = np.array([1, np.nan], dtype=np.float32)
    rows, scores = search_vectors(StoredMatrix(np.ones((9, 2), dtype=np.float32)), query, 3)
    assert len(rows) == len(scores) == 0


@pytest.mark.parametrize("key", ["index", "recall"])
def test_keys_of_an_index_say_what_to_take(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"a.yaml: {key}: .*corank vectors"):
        validate(RetrievalSettings, {"stage": "prerank", key: "ivf"}, "a.yaml")
