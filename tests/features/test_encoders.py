from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.hash_index import splitmix64
from corank.core.ragged import Ragged
from corank.features.encoders import Encoders
from corank.features.encoding import Encoded, Hash, Vocabulary
from corank.features.history import split_aligned
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature, split
from corank.features.kinds.number import NumberFeature
from corank.features.scale import Bucket, Scale, to_numbers
from corank.features.schema import Schema
from corank.features.training_values import fit_codes
from tests.support.training_values import fit_series

SCHEMA = Schema(
    {
        "user": IdFeature(side="user", kind="id"),
        "age": BucketFeature(side="user", kind="bucket", buckets=4),
        "seen": IdsFeature(side="user", kind="ids", of="item", last=2),
        "words": IdsFeature(side="context", kind="ids", separator=",", last=2),
        "query": IdFeature(side="context", kind="id", hash=100),
        "hour": NumberFeature(side="context", kind="number", column="hour_of_day"),
        "item": IdFeature(side="item", kind="id"),
        "price": NumberFeature(side="item", kind="number", scale="quantile"),
    }
)
ENCODERS = Encoders(
    SCHEMA,
    {
        "user": Vocabulary(pl.Series(["ann", "bob"])),
        "age": Bucket.fit(np.arange(101.0), 4),
        "words": Vocabulary(pl.Series(["red", "blue"])),
        "query": Hash(100, text=True),
        "hour": Scale.from_moments("standard", 12.0, 6.0),
        "item": Vocabulary(pl.Series([7, 5, 9])),
        "price": Scale.from_sample(np.arange(1001.0)),
    },
)


def encoded(name: str, values: Any, kind: pl.DataType | None = None) -> Encoded:
    return ENCODERS.encode(name, pl.Series(values, dtype=kind))


def array(name: str, values: Any, kind: pl.DataType | None = None) -> NDArray[Any]:
    """The codes or numbers of a feature of one value."""
    codes = encoded(name, values, kind)
    assert isinstance(codes, np.ndarray)
    return codes


def lists(encoded: Encoded) -> list[list[int]]:
    assert isinstance(encoded, Ragged)
    return [encoded.take(np.array([n])).flat().tolist() for n in range(len(encoded.start))]


# Vocabularies


def test_vocabulary_is_most_frequent_first_and_equals_ascend() -> None:
    values = pl.Series([4, *[9] * 5, *[2] * 5, *[None] * 9, 6, 6])
    vocabulary = fit_series(lambda v: fit_codes(v, IdFeature(side="user"), None), values)
    assert [vocabulary.decode(code) for code in range(2, vocabulary.size)] == [2, 9, 6, 4]


def test_codes_of_missing_unknown_and_known() -> None:
    codes = array("item", [9, None, 8, 7, 5])
    assert codes.tolist() == [4, 0, 1, 2, 3]
    assert codes.dtype == np.int32
    assert array("user", ["bob", "eve", None]).tolist() == [3, 1, 0]


def test_large_whole_numbers_are_exact_beside_nulls() -> None:
    vocabulary = Vocabulary(pl.Series([2**53, 2**53 + 1]))
    assert vocabulary.codes(pl.Series([2**53 + 1, None, 2**53]), "x").tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "item",
            ["seven"],
            "feature 'item': expected whole numbers, as in training; received 'seven' (String)",
        ),
        ("user", [3, 4], "feature 'user': expected text, as in training; received 3 (Int64)"),
        ("price", ["dear"], "feature 'price': expected numbers; received ['dear'] (String)"),
        ("price", [1.0, float("nan")], "feature 'price': NaN is no number; write null for a missing one"),
    ],
)
def test_wrong_values_name_feature_and_value(name: str, values: list[object], message: str) -> None:
    with pytest.raises(DataError) as error:
        encoded(name, values)
    assert str(error.value) == message


@pytest.mark.parametrize("key", ["a", "a\0b"])
def test_lists_of_objects_are_refused(key: str) -> None:
    # polars panics, which is no error that can be caught, when a key with a null character is handed to Arrow
    values = pl.Series("seen", [[{key: 1}], None, []])
    with pytest.raises(DataError, match=r"feature 'tags': expected lists of values, not \[\{'a"):
        split(values, None, "tags")
    with pytest.raises(DataError, match="user: column 'seen': expected single values in a list; received"):
        split_aligned(values, None, "user")


# Hashes


def test_splitmix64_is_the_published_one() -> None:
    # Vigna's splitmix64.c, seed 1234567: its first outputs hash the successive states
    state = np.uint64(1234567) + np.uint64(0x9E3779B97F4A7C15) * np.arange(3, dtype=np.uint64)
    assert splitmix64(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_hash_of_numbers_and_text_is_stable() -> None:
    assert Hash(10, text=False).codes(pl.Series([1234567, None]), "x").tolist() == [
        2 + 6457827717110365317 % 10,
        0,
    ]
    digest = int.from_bytes(blake2b("né".encode(), digest_size=8).digest(), "little")
    assert array("query", ["né", None, "né"]).tolist() == [2 + digest % 100, 0, 2 + digest % 100]


# Numbers


@given(st.sets(st.integers(-1000, 1000), min_size=9, max_size=80), st.integers(1, 8))
def test_buckets_of_distinct_values_are_cut_at_quantiles(values: set[int], buckets: int) -> None:
    sample = np.array(sorted(values), dtype=np.float64)
    quantiles = np.quantile(sample, np.arange(1, buckets) / buckets)
    expected = np.searchsorted(quantiles - 1e-9, sample, side="right") + 2
    assert Bucket.fit(sample, buckets).codes(sample).tolist() == expected.tolist()


def test_scales_by_hand() -> None:
    assert array("hour", [18, 12, None]).tolist() == [1, 0, 0]
    assert Scale("none").scale(to_numbers(pl.Series([2.5, None]), "x")).tolist() == [2.5, 0]
    log = Scale.from_moments("log", 1.0, 2.0).scale(np.array([0.0, np.e - 1, -(np.e - 1)]))
    assert log.tolist() == pytest.approx([-0.5, 0.0, -1.0])
    quantile = array("price", [0, 500, 1000, 250, 5000, None])
    root3 = 3**0.5
    assert quantile.tolist() == pytest.approx([-root3, 0, root3, -root3 / 2, root3, 0], abs=1e-6)
    assert quantile.dtype == np.float32


# Lists and rows


def test_a_list_keeps_the_first() -> None:
    assert lists(encoded("words", ["red, blue,red", "", None, " ,green", "blue"])) == [
        [2, 3],
        [],
        [],
        [1],
        [3],
    ]
    assert lists(encoded("words", [["blue", "", "red"]])) == [[3, 2]]


def test_damaged_encoders_are_refused(tmp_path: Path) -> None:
    ENCODERS.save(tmp_path)
    (tmp_path / "vocabulary-0.text.npy").write_bytes(b"and then nothing")
    with pytest.raises(DataError, match="encoders cannot be read"):
        Encoders.load(tmp_path, SCHEMA)
