from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corank.features.history_events import Events

HOUR = 3_600_000
DAY = 24 * HOUR

event = st.tuples(st.integers(0, 3), st.integers(0, 4 * DAY), st.integers(2, 50))
request = st.tuples(st.integers(0, 3), st.integers(0, 4 * DAY))
lags = st.sampled_from([timedelta(), timedelta(hours=1), timedelta(milliseconds=7), timedelta(days=1)])
grids = st.sampled_from([None, timedelta(hours=5), timedelta(days=1), timedelta(days=2)])


def events(rows: list[tuple[int, int, int]], users: int = 4) -> Events:
    """Of (user, time, item) in the order of the log."""
    ordered = sorted(rows, key=lambda row: row[:2])
    offsets = np.searchsorted([row[0] for row in ordered], np.arange(users + 1))
    items, times = np.array([r[2] for r in ordered], np.int32), np.array([r[1] for r in ordered], np.int64)
    return Events(items, times, offsets, items)


def cut(time: int, lag: timedelta, every: timedelta | None, timezone: str) -> int:
    if every is not None:
        zone = ZoneInfo(timezone)
        local = datetime.fromtimestamp(time / 1000, UTC).astimezone(zone)
        days = local.date().toordinal() - datetime(1970, 1, 1).toordinal()
        days -= days % max(every // timedelta(days=1), 1)
        begin = datetime.fromordinal(datetime(1970, 1, 1).toordinal() + days).replace(tzinfo=zone)
        midnight = round(begin.timestamp() * 1000)
        step = every // timedelta(milliseconds=1)
        time = midnight if every >= timedelta(days=1) else midnight + (time - midnight) // step * step
    return time - lag // timedelta(milliseconds=1)


def seen(
    of: Events, requests: list[tuple[int, int]], lag: timedelta, every: timedelta | None, zone: str
) -> list[list[int]]:
    users, times = (np.array(column, dtype=np.int64) for column in zip(*requests, strict=True))
    start, length = of.slices(users, times, lag, every, zone, last=3)
    assert length.dtype == np.int32
    return [of.items[s : s + n].tolist() for s, n in zip(start, length, strict=True)]


@given(
    st.lists(event, max_size=60),
    st.lists(request, min_size=1),
    lags,
    grids,
    st.sampled_from(["UTC", "Asia/Shanghai"]),
)
def test_slices_are_those_of_a_loop(rows, requests, lag, every, zone) -> None:  # type: ignore[no-untyped-def]
    expected = []
    for user, time in requests:
        past = [row for row in rows if row[0] == user and row[1] < cut(time, lag, every, zone)]
        expected.append([row[2] for row in sorted(past, key=lambda row: row[1])][-3:])
    assert seen(events(rows), requests, lag, every, zone) == expected
