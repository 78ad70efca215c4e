"""Cached encoding of a request against the same code without a cache."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Rows, Vectors
from corank.features.encoders import assemble_rows
from corank.features.encoding import as_int64
from corank.features.operands import OperandNames, Operands
from corank.features.schema import plain_columns
from corank.serving.funnel.query_encoder import QueryValues
from corank.serving.funnel.request import Request, parse_history, to_series
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED
from tests.support.shared import shared_case

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
    encoder = case.funnel.request_encoder
    columns = {name: case.funnel.schema.column(name) for name in plain_columns(encoder.schema, "query")}
    return QueryValues(encoder.encoders, columns, OperandNames.of(encoder.schema, "query").among(columns))


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
        return tuple(map(bits, encode()))
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


def test_values_are_kept_and_long_ones_are_not(case: Case, cached: QueryValues) -> None:
    names = [n for n in cached._columns if cached._encoders.schema.features[n].storage == "list"]
    kept: Any = ["a"] * 3
    assert cached.encode(names[0], kept) is cached.encode(names[0], list(kept))
    for value in (["a"] * 33, ["a" * 300], "a" * 300):
        assert cached.encode(names[0], value) is not cached.encode(names[0], value)


@pytest.mark.parametrize("number", [0, 1])
def test_the_query_s_row_is_that_of_packing(case: Case, number: int) -> None:
    """By the code that puts together the rows of a table, from the same columns."""
    encoder, asked = case.funnel.request_encoder, case.request("test", number)
    del asked["user"][min(set(asked["user"]) - {"id"})]
    request = Request.parse(asked)
    query = encoder.encode(request).query
    values = encoder.query.read_columns(request, [])
    schema = encoder.schema
    columns: dict[str, Any] = {
        name: encoder.encoders.encode(name, to_series(name, [values.get(schema.column(name))], "request"))
        for name in plain_columns(schema, "query")
    }
    placed = schema.row_features("query")
    plain = placed.select(columns)
    expected = assemble_rows(plain, columns, 1)
    same_row(placed, query, plain, expected)


def same_row(placed: Any, query: Rows, plain: Any, expected: Rows) -> None:
    for n, name in enumerate(plain.ids):
        assert query.ids[0, placed.ids.index(name)] == expected.ids[0, n]
    for name, at in plain.numbers_at.items():
        assert query.numbers[:, placed.numbers_at[name]].tobytes() == expected.numbers[:, at].tobytes()
    for n, name in enumerate(plain.lists):
        assert query.lists[placed.lists.index(name)].flat().tolist() == expected.lists[n].flat().tolist()
    for n, name in enumerate(plain.vectors):
        assert bits(query.vectors[placed.vectors.index(name)]) == bits(expected.vectors[n])


@pytest.mark.parametrize("odd", [True, 1.0, "1", None, 2**63, np.int64(1)])
def test_whole_numbers_are_read_at_once_and_nothing_else_is(odd: Any) -> None:
    assert as_int64([1, odd]) is None and as_int64([odd, 1]) is None and as_int64([]) is None
    numbers = as_int64([-(2**63), 2**63 - 1])
    assert numbers is not None and numbers.tolist() == [-(2**63), 2**63 - 1]


def test_events_with_times_are_read_at_once_or_one_by_one() -> None:
    events: list[dict[str, Any]] = [{"id": 1, "time": 5}, {"id": "a", "time": 6}]
    assert parse_history("past", events, timed=True) == ([1, "a"], [5, 6])
    events[1]["time"] = "1970-01-01T00:00:00.006Z"
    assert parse_history("past", events, timed=True) == ([1, "a"], [5, 6])
    with pytest.raises(RequestError, match=r"user.past.0: expected an item id"):
        parse_history("past", [{"id": True, "time": 5}], timed=True)
    with pytest.raises(RequestError, match=r"user.past.0: the times of events are needed"):
        parse_history("past", [{"id": 1}], timed=True)
