"""Time primitives. A point in time is a whole number of milliseconds since 1970 UTC."""

import time
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from corank.core.errors import ConfigError
from corank.core.types import Longs

MILLISECOND, DAY = timedelta(milliseconds=1), timedelta(days=1)

EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
"""The first and the last point in time that has a date: of the years 1 to 9999."""
_DAY = DAY // MILLISECOND
_TABLES = 2**31 * 1000
"""Until then, 2038, every table of time zones lists the same changes; later ones follow rules."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER, FOREVER = -(2**63), 2**63 - 1
"""Before and after every other point in time."""


def now_ms() -> int:
    """Return the current time in ms since 1970 UTC."""
    return round(time.time() * 1000)


def to_ms(moment: datetime) -> int:
    """Convert a datetime that has a time zone to ms since 1970 UTC."""
    return round(moment.timestamp() * 1000)


def from_ms(ms: int) -> datetime:
    """Convert ms since 1970 UTC, from EARLIEST to LATEST, to a datetime in UTC."""
    return _EPOCH + int(ms) * MILLISECOND


def moment_to_ms(text: str) -> int:
    """Convert ISO 8601 text to ms since 1970 UTC; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return to_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def midnight(day: date, timezone: str) -> int:
    """The begin of a day in a time zone, in ms UTC. Where the zone skips midnight, the end of the gap."""
    return to_ms(datetime.combine(day, time_of_day(), ZoneInfo(timezone)))


def day_numbers(times: Longs, timezone: str) -> Longs:
    """Number the days of times, ms UTC (N,), in a time zone: (N,), counted from 1970-01-01."""
    if timezone == "UTC":
        return times // _DAY
    if len(times) == 1 and 0 <= times[0] < _TABLES:  # as for a request
        moment = _EPOCH + int(times[0]) * MILLISECOND
        return np.array([moment.astimezone(ZoneInfo(timezone)).toordinal() - _EPOCH.toordinal()])
    local = (
        pl.Series(times).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(timezone)
    )
    return local.dt.date().cast(pl.Int32).to_numpy().astype(np.int64)


def floor_times(times: Longs, every: timedelta, timezone: str) -> Longs:
    """Round times down to a grid that starts at midnight of every day in a time zone.

    Args:
        times: ms UTC: (N,).
        every: step of the grid. Steps of several days are counted from 1970-01-01.
        timezone: name of the IANA zone.

    Returns:
        The last point of the grid at or before each time, ms UTC: (N,).

    Raises:
        ConfigError: if `every` is more than a day and not a whole number of days.
    """
    if every > DAY and every % DAY:
        raise ConfigError(f"every: more than a day must be whole days; received {every}")
    days = day_numbers(times, timezone)
    days = days - days % max(every // DAY, 1)
    begin = days * _DAY if timezone == "UTC" else _midnights(days, timezone)
    step = every // MILLISECOND
    return begin if every >= DAY else begin + (times - begin) // step * step


def floor_time(time: int, every: timedelta, timezone: str) -> int:
    """Round one time down, ms UTC, as `floor_times` does."""
    return int(floor_times(np.array([time], dtype=np.int64), every, timezone)[0])


def _midnights(days: Longs, timezone: str) -> Longs:
    """Return when days begin, numbered from 1970-01-01, in ms UTC: (N,)."""
    distinct, index = np.unique(days, return_inverse=True)
    begins = [midnight(date.fromordinal(_EPOCH.toordinal() + int(day)), timezone) for day in distinct]
    begin: Longs = np.array(begins, dtype=np.int64)[index]
    return begin


def format_time(ms: int) -> str:
    """Format a time for messages, in UTC to the second.

    Example:
        >>> format_time(0)
        '1970-01-01 00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
