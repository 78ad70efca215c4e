"""Whether to call something that may be down or slow: not while most recent calls were bad."""

import time
from collections import deque
from typing import Literal

WINDOW = 20
"""Recent calls that are counted."""
BAD = 5
"""So many bad ones among them open the breaker."""
PAUSE_SECONDS = 1.0
"""Time between two probes while it is open."""


class CircuitBreaker:
    """Open, no call is made except a probe now and then, for which nobody waits; a good probe closes it.

    A call is bad if it failed or was late. Not safe to share between threads.
    """

    def __init__(self) -> None:
        self.openings = 0
        """How often it opened."""
        self._bad: deque[bool] = deque(maxlen=WINDOW)
        self._probe_at: float | None = None
        """When the next probe is due; None while closed."""
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether callers go without an answer."""
        return self._probe_at is not None

    def admit(self) -> Literal["call", "probe", "skip"]:
        """Return what the next caller does; one who probes reports its result by `record`, as does one who calls."""
        if self._probe_at is None:
            return "call"
        if self._probing or time.monotonic() < self._probe_at:
            return "skip"
        self._probing = True
        return "probe"

    def record(self, good: bool) -> None:
        """Count the result of a call."""
        self._bad.append(not good)
        if sum(self._bad) >= BAD and self._probe_at is None:
            self._probe_at = time.monotonic() + PAUSE_SECONDS
            self.openings += 1

    def record_probe(self, good: bool) -> None:
        """Close the breaker after a good probe; after a bad one the next is due in `PAUSE_SECONDS`."""
        self._probing = False
        self._probe_at = None if good else time.monotonic() + PAUSE_SECONDS
        if good:
            self._bad.clear()
