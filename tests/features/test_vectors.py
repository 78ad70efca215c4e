"""Vectors of content: storage, refusals, and cosines against a calculation by hand."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from corank.core.errors import ConfigError, DataError, RowError
from corank.core.ragged import Vectors
from corank.features.feature_kind import Feature, FeatureKind
from corank.features.kinds.vector import VectorFeature
from corank.features.operands import OperandRows, Operands
from corank.features.priors import PointInTime, PriorSnapshots
from corank.features.schema import Schema

FEATURES: TypeAdapter[dict[str, FeatureKind]] = TypeAdapter(dict[str, Feature])
TEXT = {"side": "item", "kind": "vector", "dim": 3}


def encode(values: Any, dtype: Any = None, **settings: Any) -> Vectors:
    feature = VectorFeature.model_validate(TEXT | settings)
    vectors = feature.encode(None, pl.Series("text", values, dtype=dtype), "text")
    assert isinstance(vectors, Vectors)
    return vectors


def test_lists_and_arrays_of_any_numbers_are_kept_alike_in_16_bits() -> None:
    rows = [[1, 2, 3], None, [0.5, -0.25, 65504]]
    for dtype in (pl.List(pl.Float64), pl.Array(pl.Float32, 3)):
        vectors = encode(rows, dtype)
        assert vectors.values.dtype == np.float16
        assert vectors.dense().tolist() == [[1, 2, 3], [0, 0, 0], [0.5, -0.25, 65504]]
        assert vectors.with_missing()[:, 3].tolist() == [0, 1, 0]


def test_no_value_at_all_and_zeros_are_missing() -> None:
    assert encode([None, None]).row.tolist() == [-1, -1]
    assert encode([[0.0, 0, 0], [0.0, 0, 1e-9], [0.0, -0.0, 2]], pl.List(pl.Float64)).row.tolist() == [
        -1,
        -1,
        0,
    ]


def test_normalise_gives_length_1_whatever_the_size() -> None:
    rows = [[3.0, 0.0, 4.0], [3e30, 0.0, 4e30], [3e-40, 0.0, 4e-40], [0.0, 0.0, 0.0]]
    vectors = encode(rows, normalise=True)
    expected = np.array([0.6, 0, 0.8]).astype(np.float16)
    np.testing.assert_allclose(vectors.dense()[:3], [expected] * 3, atol=1e-3)
    assert vectors.row.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize(
    ("values", "message", "row"),
    [
        ([[1.0, 2, 3], [1.0, 2]], "expected 3 numbers, as features.text.dim says; received 2", 1),
        ([[1.0, 2, 3], [1.0, 2, np.inf]], "received inf as its 3. of 3", 1),
        ([[1.0, 2, 3], [1.0, 70000, 2]], "70000 is too large for the 16 bits", 1),
    ],
)
def test_a_vector_that_cannot_be_kept_is_refused_with_its_row(values: Any, message: str, row: int) -> None:
    with pytest.raises(RowError) as caught:
        encode(values)
    assert message in str(caught.value)
    assert caught.value.row == row


def test_what_is_no_list_of_numbers_is_refused() -> None:
    with pytest.raises(DataError, match="feature 'text': expected a list of 3 numbers; received"):
        encode(["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"project": 3}, "project: must be less than dim, 3; received 3"),
        ({"ids": "ids.npy"}, "ids: belongs to a `file` of vectors"),
        ({"file": "v.npy"}, "ids: names the file of the ids"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VectorFeature.model_validate(TEXT | settings)


SCHEMA = {
    "user_id": {"side": "user", "kind": "id", "dim": 4},
    "item_id": {"side": "item", "kind": "id", "dim": 4},
    "history": {"side": "user", "kind": "ids", "of": "item_id", "dim": 4},
    "text": TEXT,
    "cover": {"side": "item", "kind": "vector", "dim": 2},
    "wish": {"side": "context", "kind": "vector", "dim": 3, "project": 2},
}


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"kind": "cosine", "of": ["text", "cover"]}, "'text' has 3, 'cover' has 2"),
        ({"kind": "cosine", "of": ["text", "item_id"]}, "'item_id' is neither"),
    ],
)
def test_a_cosine_is_of_two_vectors_of_one_dim(feature: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema(FEATURES.validate_python(SCHEMA | {"odd": feature}))


vectors_of_rows = st.lists(
    st.none() | st.lists(st.floats(-9, 9, width=16), min_size=3, max_size=3), min_size=1, max_size=12
)


def plain(vectors: Vectors) -> list[list[float] | None]:
    dense = vectors.dense().tolist()
    return [None if row < 0 else dense[n] for n, row in enumerate(vectors.row)]


@given(vectors_of_rows, st.data())
def test_means_leave_out_what_has_no_vector(some: list[Any], data: st.DataObject) -> None:
    vectors = encode(some, pl.List(pl.Float32))
    lists = data.draw(st.lists(st.lists(st.integers(-1, len(some) - 1), max_size=5), max_size=6))
    index = np.array([n for one in lists for n in one], dtype=np.int64)
    weight = np.array([data.draw(st.floats(0.25, 1, width=16)) for _ in index], dtype=np.float32)
    means = vectors.means(index, np.array([len(one) for one in lists], dtype=np.int32), weight)
    rows, first = plain(vectors), 0
    for n, one in enumerate(lists):
        weights = weight[first : first + len(one)]
        first += len(one)
        known = [(rows[k], w) for k, w in zip(one, weights, strict=True) if k >= 0 and rows[k] is not None]
        if not known:
            assert means.row[n] == -1
            continue
        expected = np.average([row for row, _ in known], axis=0, weights=[w for _, w in known])
        np.testing.assert_allclose(means.values[means.row[n]], expected, atol=1e-6)


def cosines(first: Vectors, second: Vectors) -> np.ndarray:
    schema = Schema(FEATURES.validate_python(SCHEMA | {"likes": {"kind": "cosine", "of": ["wish", "text"]}}))
    query = Operands(len(first), {}, {}, {}, {"wish": first})
    item = Operands(len(second), {}, {}, {}, {"text": second})
    every = np.arange(len(first))
    sides = OperandRows.pairs(schema.operand_placements, query, item, every, every)
    when = PointInTime("likes", np.zeros(len(first), np.int64), PriorSnapshots({}, "UTC"))
    return np.asarray(schema.derived()["likes"].derive(sides, when))


def test_cosine_by_hand() -> None:
    first = encode([[1, 0, 0], [1, 2, 2], [3, 0, 0], None, [1, 1, 1]])
    second = encode([[5, 0, 0], [0, 1, 0], [-1, 0, 0], [1, 1, 1], None])
    np.testing.assert_allclose(cosines(first, second), [1, 2 / 3, -1, np.nan, np.nan], rtol=1e-6)
