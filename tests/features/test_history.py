from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corank.data.packing.histories import SortEvents
from corank.data.packing.workspace import find_pieces, write_piece
from corank.features.history_events import EventParts, Events

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


KINDS = {"user": pl.Int32, "times": pl.Int64, "items": pl.Int32, "row": pl.Int64, "ordinals": pl.Int32}
PARTS = EventParts(timed=True, keys=False, attributes={}, attribute_keys={})


def sorted_events(
    folder: Path, pieces: Sequence[Sequence[tuple[int, ...]]], users: int, ranges: int
) -> Events:
    for n, rows in enumerate(pieces):
        piece = pl.DataFrame(rows, schema=KINDS, orient="row").sort("user")
        write_piece(folder, "click", f"{n:05d}", piece)
    sort = SortEvents("click", find_pieces(folder, "click", len(pieces)), users, ranges, folder, PARTS)
    for n in range(ranges):
        sort(n)
    sort.join(folder)
    return Events.open(folder, "click", PARTS)


@pytest.mark.parametrize("ranges", [1, 2, 4, 6, 9])
def test_pieces_are_sorted_by_user_time_and_log(tmp_path: Path, ranges: int) -> None:
    pieces = [
        [(2, 30, 11, 0, 1), (0, 20, 12, 1, 2), (2, 10, 13, 4, 3)],
        [(2, 30, 14, 3, 4), (0, 20, 15, 2, 5), (4, 5, 16, 5, 6)],
        [],
    ]
    written = sorted_events(tmp_path, pieces, users=6, ranges=ranges)
    assert written.items.tolist() == [12, 15, 13, 11, 14, 16]
    assert written.times.tolist() == [20, 20, 10, 30, 30, 5]
    assert written.offsets.tolist() == [0, 2, 2, 5, 5, 6, 6]
    assert written.ordinals.tolist() == [2, 5, 3, 1, 4, 6]
