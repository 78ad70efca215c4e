"""What a request's encoded rows hold, against packing and against the same code without a cache."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.errors import DataError, RequestError
from corank.core.ragged import Ragged, Vectors
from corank.features.encoders import assemble_rows
from corank.features.operands import OperandNames, Operands
from corank.features.schema import plain_columns
from corank.serving.funnel.query_encoder import QueryValues
from corank.serving.funnel.request import Request, parse_history, to_series
from tests.support.cases import Case
from tests.support.random_worlds import DERIVED, LISTED
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


def test_the_query_s_row_is_that_of_packing(case: Case) -> None:
    """By the code that puts together the rows of a table, from the same columns."""
    encoder, asked = case.funnel.request_encoder, case.request("test", 0)
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
    for n, name in enumerate(plain.ids):
        assert query.ids[0, placed.ids.index(name)] == expected.ids[0, n]
    for name, at in plain.numbers_at.items():
        assert query.numbers[:, placed.numbers_at[name]].tobytes() == expected.numbers[:, at].tobytes()
    for n, name in enumerate(plain.lists):
        assert query.lists[placed.lists.index(name)].flat().tolist() == expected.lists[n].flat().tolist()
    for n, name in enumerate(plain.vectors):
        assert bits(query.vectors[placed.vectors.index(name)]) == bits(expected.vectors[n])


def test_a_late_stage_compares_with_candidates_that_an_early_one_dropped(case: Case) -> None:
    encoder = case.funnel.request_encoder
    placed = encoder.schema.row_features("cross")
    compared = [n for n, f in encoder.schema.derived("cross").items() if f.compares_candidates]
    assert {n in placed.ids for n in compared} == {True, False}
    differs = 0
    for number in range(3):
        request = case.request("test", number)
        encoded = encoder.encode(Request.parse(request))
        every = encoder.cross(encoded, np.arange(len(encoded.ids)))
        alive = np.arange(0, len(encoded.ids), 2)
        some = encoder.cross(encoded, alive)
        np.testing.assert_array_equal(some.ids, every.ids[alive])
        np.testing.assert_array_equal(some.numbers, every.numbers[alive])
        fewer = request | {"candidates": [request["candidates"][n] for n in alive]}
        alone = encoder.encode(Request.parse(fewer))
        differs += (encoder.cross(alone, np.arange(len(alive))).numbers != some.numbers).any()
    assert differs, "what is asked for decides with what a number is compared"


def test_a_candidate_that_nobody_knows_is_not_compared_with(case: Case) -> None:
    encoder, request = case.funnel.request_encoder, case.request("test", 0)
    more = request | {"candidates": [*request["candidates"], {"id": 10**9}]}
    encoded = encoder.encode(Request.parse(request))
    beside = encoder.encode(Request.parse(more))
    assert len(beside.unknown) == 1
    compared = [n for n, f in encoder.schema.derived("cross").items() if f.compares_candidates]
    assert compared
    for name in compared:
        ours, theirs = encoded.crosses[name], beside.crosses[name]
        assert isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
        np.testing.assert_array_equal(ours, theirs)


def test_events_with_times_are_read_at_once_or_one_by_one() -> None:
    events: list[dict[str, Any]] = [{"id": 1, "time": 5}, {"id": "a", "time": 6}]
    assert parse_history("past", events, timed=True) == ([1, "a"], [5, 6])
    events[1]["time"] = "1970-01-01T00:00:00.006Z"
    assert parse_history("past", events, timed=True) == ([1, "a"], [5, 6])
    with pytest.raises(RequestError, match=r"user.past.0: expected an item id"):
        parse_history("past", [{"id": True, "time": 5}], timed=True)


# Histories that columns list

GOOD = {"seen_0": [1, 2], "when_0": [5, 6], "dwell_0": [1, 2], "seen_2": "1 2", "dwell_2": "3 4"}
UNEQUAL = "lists of one history must be of one length"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"when_0": [5]}, f"user: column 'seen_0' lists 2 events and 'when_0' 1; {UNEQUAL}"),
        ({"dwell_2": "3"}, f"user: column 'seen_2' lists 2 events and 'dwell_2' 1; {UNEQUAL}"),
        ({"when_0": [5, None]}, "user: column 'when_0': a time is null; an event without a time"),
        ({"when_0": [5, 1.5]}, "user: column 'when_0': expected times (datetimes, dates, or whole milliseconds)"),
        ({"when_0": [5, 2**63]}, "user: column 'when_0': expected times of the years 1 to 9999; received 9223372"),
        ({"when_0": ["5", "6\0"]}, r"user: column 'when_0': expected ISO 8601"),
        ({"seen_0": [1, "2"]}, "user.seen_0: 'seen_0' mixes types or is out of range"),
        ({"seen_0": ["1", "2"]}, "feature 'history_0': expected whole numbers, as in training; received '1'"),
        ({"seen_0": "1 2"}, "user: column 'seen_0': expected lists; received '1 2'"),
        ({"seen_0": [[1], [2]]}, "user: column 'seen_0': expected single values in a list; received [1]"),
        ({"seen_2": "1 2\0"}, "user: column 'seen_2': ids of items are whole numbers; received '2\\x00'"),
        ({"seen_2": f"1 {2**64}"}, "user: column 'seen_2': ids of items are whole numbers; received '18446744"),
        ({"dwell_0": ["\ud800", "a"]}, "user.dwell_0: 'dwell_0' mixes types or is out of range"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read_are_told(user: dict[str, Any], message: str) -> None:
    case = shared_case(LISTED)
    request = case.request("test", 0)
    case.funnel.rank(Request.parse(request | {"user": request["user"] | GOOD}))
    with pytest.raises(RequestError) as error:
        case.funnel.rank(Request.parse(request | {"user": request["user"] | GOOD | user}))
    assert message in str(error.value)


@pytest.mark.parametrize("events", [None, [], ["filter 1", "never seen"]])
def test_values_of_a_history_may_be_unknown_or_none_at_all(events: list[str] | None) -> None:
    case = shared_case(LISTED)
    request = case.request("test", 0)
    timed = [{"id": value, "time": request["time"] - 1000} for value in events or []]
    user = request["user"] | {"did_1": None if events is None else timed}
    assert case.funnel.rank(Request.parse(request | {"user": user}))["items"]
    histories = case.funnel.request_encoder.query.histories
    known = case.packed.encoders.codes("did_1", pl.Series(events or [], dtype=pl.String))
    assert histories.encode("did_1", user, False, request["time"]).codes.tolist() == known.tolist()
    wrong = request["user"] | {"did_1": [{"id": 7, "time": request["time"]}]}
    with pytest.raises(RequestError, match="feature 'did_1': expected text, as in training; received 7"):
        case.funnel.rank(Request.parse(request | {"user": wrong}))
