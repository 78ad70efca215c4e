"""The earlier row that each embedding row starts from, over vocabularies, hashes, buckets and whole tables."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.core.settings import validate
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, MISSING, UNKNOWN, Encoder, Hash, Vocabulary
from corank.features.feature_kind import FeatureKind
from corank.features.kinds.bucket import BucketFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.pair import PairFeature
from corank.features.row_map import FRESH, PackingMap
from corank.features.scale import Bucket
from corank.features.schema import Schema

NUMBERS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=30)
TEXTS = st.lists(st.text(max_size=3), unique=True, max_size=30)


def vocabulary(values: list[Any]) -> Vocabulary:
    text = bool(values) and isinstance(values[0], str)
    return Vocabulary(pl.Series(values, dtype=pl.String if text else pl.Int64))


def schema(**features: Any) -> Schema:
    classes: dict[str, type[FeatureKind]] = {
        "id": IdFeature,
        "ids": IdsFeature,
        "bucket": BucketFeature,
        "pair": PairFeature,
    }
    return Schema({name: validate(classes[plain["kind"]], plain, name) for name, plain in features.items()})


def of_one(earlier: Encoder, new: Encoder) -> PackingMap:
    plain = {"side": "item", "kind": "id", "dim": 4}
    return PackingMap(
        Encoders(schema(item=plain), {"item": earlier}), Encoders(schema(item=plain), {"item": new})
    )


@given(st.one_of(st.tuples(NUMBERS, NUMBERS), st.tuples(TEXTS, TEXTS)))
def test_a_value_keeps_its_row_and_a_new_one_begins_as_unknown(drawn: tuple[list[Any], list[Any]]) -> None:
    before, now = drawn
    earlier, new = vocabulary(before), vocabulary(now)
    mapping = of_one(earlier, new)
    rows = mapping.table(4)
    assert rows.source[:FIRST_KNOWN].tolist() == [MISSING, UNKNOWN] and rows.kept[:FIRST_KNOWN].all()
    for value, source, kept in zip(now, rows.source[FIRST_KNOWN:], rows.kept[FIRST_KNOWN:], strict=True):
        expected = before.index(value) + FIRST_KNOWN if value in before else UNKNOWN
        assert (source, kept) == (expected, value in before)
    counts = mapping.features["item"]
    both = len(set(before) & set(now))
    assert (counts.kept, counts.new, counts.gone) == (both, len(now) - both, len(before) - both)


@pytest.mark.parametrize(
    ("earlier", "new", "carried"),
    [
        (Hash(8, text=True), Hash(8, text=True), True),
        (Hash(8, text=True), Hash(9, text=True), False),
        (Hash(8, text=False), vocabulary([1, 2]), False),
        (Bucket(np.array([0.5, 2])), Bucket(np.array([0.5, 2])), True),
        (Bucket(np.array([0.5, 2])), Bucket(np.array([0.5, 3])), False),
    ],
)
def test_codes_that_stand_for_other_values_start_fresh(earlier: Encoder, new: Encoder, carried: bool) -> None:
    mapping = of_one(earlier, new)
    rows, feature = mapping.table(4), mapping.features["item"]
    assert feature.carried == carried
    assert (rows.source.tolist() == list(range(new.size))) == carried
    assert bool(feature.reason) != carried
    if not carried:
        assert (
            (rows.source == FRESH).all()
            and not rows.kept.any()
            and feature.gone == earlier.size - FIRST_KNOWN
        )


ITEM = {"side": "item", "kind": "id", "dim": 4}
USER = {"side": "user", "kind": "id", "dim": 4}
HISTORY = {"side": "user", "kind": "ids", "of": "item", "last": 3}


def test_the_rows_of_a_table_are_those_of_its_features_one_after_another() -> None:
    """With histories, which share rows, pairs, whose values are hashes, and features of another dim, new and gone."""
    before = schema(
        user=USER,
        item=ITEM,
        shown=HISTORY,
        brand={"side": "item", "kind": "id", "dim": 4},
        tags={"side": "item", "kind": "ids", "dim": 8},
    )
    now = schema(
        city={"side": "user", "kind": "id", "dim": 4},
        item=ITEM,
        shown=HISTORY,
        brand={"side": "item", "kind": "id", "dim": 8},
        tags={"side": "item", "kind": "ids", "dim": 8},
        both={"kind": "pair", "of": ["city", "item"], "dim": 4},
    )
    mapping = PackingMap(
        Encoders(
            before,
            {
                "user": vocabulary([7]),
                "item": vocabulary(["a", "b", "c"]),
                "brand": vocabulary([1]),
                "tags": vocabulary([5, 6]),
            },
        ),
        Encoders(
            now,
            {
                "city": vocabulary([3]),
                "item": vocabulary(["c", "d", "a"]),
                "brand": vocabulary([1]),
                "tags": vocabulary([6]),
                "both": vocabulary([-9]),
            },
        ),
    )
    # earlier table 4: user 0-2, item 3-7, brand 8-10; new: city 0-2, item 3-7, both 8-10
    assert mapping.table(4).source.tolist() == [-1, -1, -1, 3, 4, 7, 4, 5, -1, -1, -1]
    assert mapping.table(4).kept.tolist() == [False] * 3 + [True, True, True, False, True] + [False] * 3
    # earlier table 8: tags 0-3; new: brand 0-2, tags 3-5
    assert mapping.table(8).source.tolist() == [-1, -1, -1, 0, 1, 3]
    assert list(mapping.features) == ["city", "item", "brand", "tags", "both", "user"]
    assert mapping.features["brand"].reason == "dim 4 before, 8 now"
    assert (mapping.features["user"].earlier, mapping.features["city"].earlier) == (3, 0)
