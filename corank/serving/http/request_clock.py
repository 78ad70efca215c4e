"""The bound of a request's `time` around now: what is served is logged, and trained on at its time."""

from datetime import timedelta

from corank.core.errors import RequestError
from corank.core.time import MILLISECOND, now_ms
from corank.serving.funnel.request import Request

UNITS = {"seconds": 1_000.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
"""Units that clients send in place of milliseconds → milliseconds."""


def check_clock(request: Request, skew: timedelta) -> None:
    """Raise RequestError for a request whose time is further from now than `skew`."""
    if request.time is None:
        return
    time, now, limit = request.time_ms, now_ms(), skew // MILLISECOND
    if abs(time - now) <= limit:
        return
    for unit, milliseconds in UNITS.items():
        if abs(time * milliseconds - now) <= limit:
            raise RequestError(
                f"time: {time} is in {unit}, it seems; write milliseconds since 1970 UTC, or ISO 8601"
            )
    raise RequestError(
        f"time: {request.time!r} is more than {skew} from the service's clock, {now} ms; leave it out for now, or "
        "serve with a larger --max-clock-skew"
    )
