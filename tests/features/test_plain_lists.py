"""Plain lists of one request, split at once: the same events as of columns."""

from typing import Any

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corank.core.errors import CorankError
from corank.features.history import EventLists, ListedEvents, ListParts, split_aligned, split_plain
from corank.funnel.request import to_series

SPACES = " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u3000\u200b\ufeff"
moments = st.sampled_from(
    [
        "2026-04-29",
        "20260429",
        "2026-04-29T12:00:00+08:00",
        "2026-04-29T12:00",
        "12:00",
        "0001-01-01T00:00+10:00",
    ]
)
texts = st.one_of(
    st.integers(-3, 30).map(str),
    st.integers(-(10**20), 10**20).map(str),
    moments,
    st.text(st.sampled_from("0179+-_.ex\0é²٣\ud800" + SPACES), max_size=5),
)
wholes = st.one_of(st.integers(-3, 30), st.integers(-(2**65), 2**65), st.sampled_from([2**63 - 1, 10**15]))
odd = st.one_of(st.none(), st.booleans(), st.floats(), st.just([1]), st.just({"id": 1}))
one = st.one_of(wholes, texts, odd)
plain = st.one_of(
    *(
        st.lists(of, max_size=4)
        for of in (st.integers(0, 30), st.sampled_from(["a", "b", "7", "07"]), moments)
    )
)
columns = st.one_of(
    plain,
    st.lists(st.integers(0, 30), min_size=3, max_size=3),
    st.lists(one, max_size=4),
    st.lists(st.one_of(texts, st.integers(0, 9).map(str)), max_size=4).map(" ".join),
    st.lists(st.integers(0, 30).map(str), max_size=4).map(", ".join),
    one,
)


def told(lists: EventLists, parts: dict[str, ListParts], text: bool) -> Any:
    """What events are read, or the error."""
    try:
        read = ListedEvents.read(lists, parts, text, lambda n: "user")
    except CorankError as error:
        return str(error)
    times = None if read.times is None else read.times.tolist()
    values = [pl.Series(read.items), pl.Series(read.parallel["beside"])]
    return read.length.tolist(), times, [(list(one), one.dtype if len(one) else None) for one in values]


@given(
    seen=columns,
    when=columns,
    beside=columns,
    timed=st.booleans(),
    separator=st.sampled_from([None, " ", ",", "1", "\t", ""]),
    text=st.booleans(),
)
@example(seen=[1, 2, 3], when=[9, 3, 3], beside=["c", "a", "b"], timed=True, separator=None, text=False)
@example(seen="3 1 2", when="5 2026-04-29 5", beside="7 8 07", timed=True, separator=" ", text=False)
@example(seen=" a, b ,c", when=[1, 2, 3], beside="x,y,z", timed=True, separator=",", text=True)
@example(seen=["1"], when=None, beside=["a\0b"], timed=False, separator=" ", text=True)
@example(seen=[1], when=[10**18], beside=[1], timed=True, separator=None, text=False)
@example(seen=None, when=[], beside="", timed=True, separator=",", text=True)
def test_plain_lists_are_read_as_those_of_a_log(
    seen: Any, when: Any, beside: Any, timed: bool, separator: str | None, text: bool
) -> None:
    lists = EventLists("seen", "when" if timed else None, separator)
    fields = {"seen": seen, "beside": beside} | ({"when": when} if timed else {})
    plain = {column: split_plain(value, separator) for column, value in fields.items()}
    if any(part is None for part in plain.values()):
        return
    series = {column: to_series(column, [value], f"user.{column}") for column, value in fields.items()}
    split = {column: split_aligned(values, separator, "user") for column, values in series.items()}
    known = {column: part for column, part in plain.items() if part is not None}
    assert told(lists, known, text) == told(lists, {**split}, text)


@pytest.mark.parametrize(
    ("held", "separator", "text", "items", "times", "beside"),
    [
        ({"seen": [3, 1, 2], "when": [9, 3, 3], "beside": [7, 8, 9]}, None, False, [1, 2, 3], [3, 3, 9], [8, 9, 7]),
        ({"seen": "3, 1", "when": "1970-01-02,5", "beside": "7,8"}, ",", False, [1, 3], [5, 86_400_000], ["8", "7"]),
    ],
)  # fmt: skip
def test_what_requests_carry_as_a_rule_is_plain(
    held: dict[str, Any], separator: str | None, text: bool, items: Any, times: Any, beside: Any
) -> None:
    plain = {column: split_plain(value, separator) for column, value in held.items()}
    known = {column: part for column, part in plain.items() if part is not None}
    assert known.keys() == held.keys()
    _, read_times, (read_items, read_beside) = told(EventLists("seen", "when", separator), known, text)
    assert (read_items[0], read_times, read_beside[0]) == (items, times, beside)
