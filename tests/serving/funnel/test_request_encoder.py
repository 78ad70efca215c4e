"""What a request's encoded rows hold, against packing and against the same code without a cache."""

import gc
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Vectors
from corank.features.operands import Operands
from corank.features.row_encoder import RowEncoder
from corank.funnel.request import Request
from corank.funnel.request_reader import QueryValues
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED, LISTED, RICH
from tests.support.shared import bare_case, shared_case

SAME = settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ONES: list[Any] = [
    1,
    True,
    1.0,
    "1",
    [1],
    [True],
    [1.0],
    ["1"],
    0,
    0.0,
    -0.0,
    False,
    None,
    [],
    "",
    "w1",
    ["w1", None],
]
single = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3)
values = st.lists(st.sampled_from(ONES) | single | st.lists(single, max_size=4), max_size=8)


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(DERIVED)


@pytest.fixture(scope="module")
def cached(case: Case) -> QueryValues:
    """One for all examples, so that each may find what others left."""
    return QueryValues(RowEncoder(case.funnel.request_encoder.encoders, "query"))


def bits(value: Any) -> Any:
    """The bits that distinguish encoded values, the sign of a zero included."""
    if isinstance(value, Ragged):
        return value.flat().tolist()
    if isinstance(value, Vectors):
        return value.row.tolist(), value.values[value.row[value.row >= 0]].tobytes()
    if isinstance(value, Operands):
        parts = (
            {n: bits(operand) for n, operand in part.items()}
            for part in (value.keys, value.lists, value.numbers)
        )
        return tuple(parts)
    return np.asarray(value).tobytes()


def told(encode: Any) -> Any:
    """The bits of what a call gives, or the error that it raises."""
    try:
        return tuple(map(bits, msgspec.structs.astuple(encode())))
    except (DataError, RequestError) as error:
        return str(error)


@SAME
@given(values)
def test_a_value_is_encoded_as_without_a_cache(case: Case, cached: QueryValues, given: list[Any]) -> None:
    for value in given:
        for name in cached._columns:
            alone = told(lambda name=name, value=value: cached._encode(name, value))
            for _ in range(2):
                assert told(lambda name=name, value=value: cached.encode(name, value)) == alone, (name, value)


def test_the_collector_of_cycles_visits_no_single_value(case: Case, cached: QueryValues) -> None:
    def count_visited() -> int:
        gc.collect()
        return len(gc.get_objects())

    placed, before = case.funnel.request_encoder.schema.row_features("query"), count_visited()
    for number in range(200):
        for name in cached._columns.keys() - set(placed.lists):
            with suppress(DataError, RequestError):
                cached.encode(name, number)
    assert cached._single.cache_info().currsize >= 200
    assert count_visited() - before < 100


def test_a_late_stage_compares_with_candidates_that_an_early_one_dropped(case: Case) -> None:
    encoder = case.funnel.request_encoder
    placed = encoder.schema.row_features("cross")
    compared = [n for n, f in encoder.schema.derived("cross").items() if f.compares_candidates]
    assert {n in placed.ids for n in compared} == {True, False}
    differs = 0
    for number in range(3):
        request = case.request("test", number)
        encoded = case.funnel.encode(Request.parse(request))
        every = encoder.cross(encoded, encoded.everyone)
        alive = encoded.everyone[::2]
        some = encoder.cross(encoded, alive)
        np.testing.assert_array_equal(some.ids, every.ids[alive])
        np.testing.assert_array_equal(some.numbers, every.numbers[alive])
        fewer = request | {"candidates": [request["candidates"][n] for n in alive]}
        alone = case.funnel.encode(Request.parse(fewer))
        differs += (encoder.cross(alone, alone.everyone).numbers != some.numbers).any()
    assert differs, "what is asked for decides with what a number is compared"


# Histories that columns list

GOOD = {"seen_0": [1, 2], "when_0": [5, 6], "dwell_0": [1, 2], "seen_2": "1 2", "dwell_2": "3 4"}
UNEQUAL = "lists of one history must be of one length"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"when_0": [5]}, f"user: column 'seen_0' lists 2 events and 'when_0' 1; {UNEQUAL}"),
        ({"when_0": [5, None]}, "user: column 'when_0': a time is null; an event without a time"),
        ({"seen_0": ["1", "2"]}, "feature 'history_0': expected whole numbers, as in training; received '1'"),
        ({"seen_0": "1 2"}, "user: column 'seen_0': expected lists; received '1 2'"),
        ({"seen_2": "1 2\0"}, "user: column 'seen_2': ids of items are whole numbers; received '2\\x00'"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read_are_told(user: dict[str, Any], message: str) -> None:
    case = bare_case(LISTED)
    request = case.request("test", 0)
    case.funnel.encode(Request.parse(request | {"user": request["user"] | GOOD}))
    with pytest.raises(RequestError) as error:
        case.funnel.encode(Request.parse(request | {"user": request["user"] | GOOD | user}))
    assert message in str(error.value)


# Histories of texts


def test_texts_are_encoded_as_a_column_of_them_is() -> None:
    funnel = bare_case(RICH | {"text_ids": True}).funnel
    encoder = funnel.request_encoder
    histories = [name for name, history in encoder.schema.histories().items() if history.lists is None]
    assert histories
    known = encoder.items.layers[0].records.ids.values.to_list()
    for name in histories:

        def encode(events: list[Any], name: str = name) -> list[int]:
            codes: list[int] = funnel.reader.read_history(name, {name: events}, 0).codes.tolist()
            return codes

        last = encoder.schema.histories()[name].last
        for events in (known[:9], [*known[:2], "nowhere"], known[:1] * 3):
            expected: list[int] = encoder.encoders.codes(name, pl.Series(events)).tolist()
            assert encode(events) == expected[-last:]
        assert encode([]) == []
        for odd in ([known[0], 3], ["\ud800"]):
            with pytest.raises(RequestError, match=f"user.{name}"):
                encode(odd)
