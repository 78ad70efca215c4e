"""Lists of events that a request cannot have: the error names the column, whether other values are plain or not."""

from typing import Any

import polars as pl
import pytest

from corank.core.errors import RequestError
from corank.serving.funnel.request import Request
from tests.support.random_worlds import LISTED
from tests.support.shared import shared_case

GOOD = {"seen_0": [1, 2], "when_0": [5, 6], "dwell_0": [1, 2], "seen_2": "1 2", "dwell_2": "3 4"}
UNEQUAL = "lists of one history must be of one length"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"when_0": [5]}, f"user: column 'seen_0' lists 2 events and 'when_0' 1; {UNEQUAL}"),
        ({"seen_0": None}, f"user: column 'seen_0' lists 0 events and 'when_0' 2; {UNEQUAL}"),
        ({"dwell_2": "3"}, f"user: column 'seen_2' lists 2 events and 'dwell_2' 1; {UNEQUAL}"),
        ({"seen_2": "1  2"}, f"user: column 'seen_2' lists 3 events and 'dwell_2' 2; {UNEQUAL}"),
        ({"when_0": [5, None]}, "user: column 'when_0': a time is null; an event without a time"),
        ({"when_0": [5, 1.5]}, "user: column 'when_0': expected times (datetimes, dates, or whole milliseconds)"),
        ({"when_0": [5, 10**15]}, "user: column 'when_0': expected times of the years 1 to 9999; received 1000000"),
        ({"when_0": [5, 2**63]}, "user: column 'when_0': expected times of the years 1 to 9999; received 9223372"),
        ({"when_0": ["5", "6\0"]}, r"user: column 'when_0': expected ISO 8601"),
        ({"seen_0": [1, "2"]}, "user.seen_0: 'seen_0' mixes types or is out of range"),
        ({"seen_0": [1, 2**70]}, "user.seen_0: 'seen_0' mixes types or is out of range"),
        ({"seen_0": ["1", "2"]}, "feature 'history_0': expected whole numbers, as in training; received '1'"),
        ({"seen_0": "1 2"}, "user: column 'seen_0': expected lists; received '1 2'"),
        ({"seen_0": [[1], [2]]}, "user: column 'seen_0': expected single values in a list; received [1]"),
        ({"seen_2": "1 2\0"}, "user: column 'seen_2': ids of items are whole numbers; received '2\\x00'"),
        ({"seen_2": f"1 {2**64}"}, "user: column 'seen_2': ids of items are whole numbers; received '18446744"),
        ({"dwell_0": ["\ud800", "a"]}, "user.dwell_0: 'dwell_0' mixes types or is out of range"),
        ({"dwell_0": ["x", "y"]}, "feature 'beside_0': expected whole numbers, as in training; received 'x'"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read_are_told(user: dict[str, Any], message: str) -> None:
    case = shared_case(LISTED)
    request = case.request("test", 0)
    case.funnel.rank(Request.parse(request | {"user": request["user"] | GOOD}))
    with pytest.raises(RequestError) as error:
        case.funnel.rank(Request.parse(request | {"user": request["user"] | GOOD | user}))
    assert message in str(error.value)


@pytest.mark.parametrize("events", [None, [], ["never seen"], ["filter 1", "never seen"]])
def test_values_of_a_history_may_be_unknown_or_none_at_all(events: list[str] | None) -> None:
    case = shared_case(LISTED)
    request = case.request("test", 0)
    timed = [{"id": value, "time": request["time"] - 1000} for value in events or []]
    user = request["user"] | {"did_1": None if events is None else timed}
    assert case.funnel.rank(Request.parse(request | {"user": user}))["items"]
    histories = case.funnel.request_encoder.query.histories
    known = case.packed.encoders.codes("did_1", pl.Series(events or [], dtype=pl.String))
    assert histories.encode("did_1", user, False, request["time"]).codes.tolist() == known.tolist()


def test_values_of_another_type_are_told() -> None:
    case = shared_case(LISTED)
    request = case.request("test", 0)
    user = request["user"] | {"did_1": [{"id": 7, "time": request["time"]}]}
    with pytest.raises(RequestError, match="feature 'did_1': expected text, as in training; received 7"):
        case.funnel.rank(Request.parse(request | {"user": user}))
