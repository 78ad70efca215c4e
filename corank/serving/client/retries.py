"""When a call is tried again. A ranking changes nothing, so that it may be asked for any number of times."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may be answered."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, how soon and for how long a call is tried."""

    attempts: int = 3
    timeout: float = 1.0
    """Seconds for one try."""
    deadline: float = 2.0
    """Seconds for all tries and the pauses between them."""
    pause: float = 0.05
    """Seconds before the second try, doubled with each more, less a random part; `Retry-After` asks for longer."""

    def __post_init__(self) -> None:
        for name in ("attempts", "timeout", "deadline", "pause"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0; received {getattr(self, name)!r}")


@dataclass
class Tries:
    """The tries of one call."""

    policy: RetryPolicy
    count: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.began + self.policy.deadline - time.monotonic()

    def begin(self) -> float:
        """Begin a try, and return its timeout in seconds."""
        self.count += 1
        return max(min(self.policy.timeout, self.left), 1e-3)

    def pause_after(self, status: int | None, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait before the next try; None if there is to be none.

        Args:
            status: of the answer; None if there was none.
            headers: of the answer.
        """
        if self.count >= self.policy.attempts or (status is not None and status not in AGAIN):
            return None
        pause = self.policy.pause * 2 ** (self.count - 1) * random.uniform(0.5, 1.0)
        asked = parse_retry_after(headers.get("Retry-After"))
        if asked is not None:
            pause = max(pause, asked)
        return pause if pause < self.left else None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that a header `Retry-After` asks to wait, by a number or a date; None if it says nothing.

    Example:
        >>> parse_retry_after("2"), parse_retry_after("soon"), parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
        (2.0, None, 0.0)
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
