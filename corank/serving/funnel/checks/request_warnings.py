"""Warnings about a request that is ranked: what would change its scores without a word.

Letters: L events of a history.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from corank.core.errors import RequestError
from corank.core.time import DAY, MILLISECOND
from corank.core.types import Longs

SECONDS_FROM = 10**11
"""A request later than this, in 1973, cannot have an event in the first weeks of 1970."""
YEARS = 3650 * (DAY // MILLISECOND)
"""Times within ten years of each other, ms."""


@dataclass(frozen=True)
class RequestWarning:
    """A warning of an answer."""

    kind: Literal["future", "order", "filter"]
    """By which warnings are counted."""
    text: str
    """Names the field."""


def check_event_times(field: str, times: Longs, time: int) -> tuple[RequestWarning, ...]:
    """Warn of events after the request, and of events that are not in the order of time.

    Args:
        field: of the request.
        times: of the events, ms since 1970 UTC: (L,).
        time: of the request.

    Raises RequestError for times in seconds.
    """
    first, last = int(times.min()), int(times.max())
    if time > SECONDS_FROM and first * 1000 < time + YEARS:
        # whole seconds since 1970 are milliseconds of its first weeks
        seconds = np.flatnonzero((times > 0) & (np.abs(times * 1000.0 - time) < YEARS))
        if len(seconds):
            n = int(seconds[0])
            raise RequestError(
                f"{field}.{n}.time: {times[n]} is in seconds, it seems; write milliseconds since 1970"
            )
    warnings = []
    later = int(np.count_nonzero(times > time)) if last > time else 0
    if later:
        warnings.append(
            RequestWarning(
                "future",
                f"{field}: {later} of {len(times)} events are after the request; they count as new as can be",
            )
        )
    if (times[1:] < times[:-1]).any():
        warnings.append(
            RequestWarning("order", f"{field}: events are not in the order of time, the newest last")
        )
    return tuple(warnings)
