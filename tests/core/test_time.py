"""Time primitives: grids that begin at midnight of a time zone, and the format of times."""

from datetime import date, datetime, timedelta

import numpy as np
import pytest

from corank.core.time import floor_times, midnight, to_ms


@pytest.mark.parametrize(
    ("zone", "moment", "every", "expected"),
    [
        # summer time ends: this day has 25 hours, and its sixth hour comes after seven
        ("Europe/Berlin", "2025-10-26T12:00:00+01:00", timedelta(days=1), "2025-10-26T00:00:00+02:00"),
        ("Europe/Berlin", "2025-10-26T05:30:00+01:00", timedelta(hours=6), "2025-10-26T05:00:00+01:00"),
        # this day had no midnight: it began at 01:00
        ("America/Sao_Paulo", "2018-11-04T09:00:00-02:00", timedelta(days=1), "2018-11-04T01:00:00-02:00"),
        ("UTC", "1970-01-06T03:00:00+00:00", timedelta(days=2), "1970-01-05T00:00:00+00:00"),
        ("UTC", "1969-12-31T23:00:00+00:00", timedelta(hours=5), "1969-12-31T20:00:00+00:00"),
    ],
)
def test_times_are_rounded_down_from_midnight(
    zone: str, moment: str, every: timedelta, expected: str
) -> None:
    instant, wanted = (round(datetime.fromisoformat(m).timestamp() * 1000) for m in (moment, expected))
    assert floor_times(np.array([instant]), every, zone).tolist() == [wanted]


def test_midnight_is_that_of_the_zone() -> None:
    assert midnight(date(2026, 4, 30), "Asia/Shanghai") == to_ms(
        datetime.fromisoformat("2026-04-30T00:00:00+08:00")
    )
    assert midnight(date(1970, 1, 1), "UTC") == 0
