"""The shutdown state of a process, for the parent and its workers; `draining` is how a worker then shuts down."""

import os
import signal
import threading
import time

ACCEPT_SECONDS = 0.25
"""Time in which connections that are complete are accepted, before the socket is closed."""
EXIT_SECONDS = 5.0
"""Time for the end of the process after its last answer: its log is written, its threads stop."""
RETIRE = signal.SIGUSR2
"""Tells a worker to end since another has taken its place: the service continues."""


class Drain:
    """When shutdown began, and how much time it has."""

    def __init__(self, grace: float = 0.0, limit: float = 10.0) -> None:
        """
        Args:
            grace: seconds for which requests continue as before.
            limit: seconds after the grace in which what has begun is answered.
        """
        self.grace, self.limit = grace, limit
        self.began: float | None = None
        """By `time.monotonic`; None before shutdown."""
        self.service_goes_on = False
        """Whether the process ends alone: its service stays ready."""

    def begin(self) -> None:
        """Begin, if it has not begun."""
        self.began = time.monotonic() if self.began is None else self.began

    def is_over(self) -> bool:
        """Whether the grace time has passed."""
        return self.began is not None and time.monotonic() >= self.began + self.grace


def end_process_after(seconds: float) -> threading.Timer:
    """End the process at that time, if it is there then: one of its threads may hang."""
    watchdog = threading.Timer(seconds, os._exit, [1])
    watchdog.daemon = True
    watchdog.start()
    return watchdog
