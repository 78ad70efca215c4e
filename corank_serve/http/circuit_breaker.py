"""Calls of something that may be down or slow: whether to make one, and a few threads for those that may hang."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

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

    def record(self, good: bool, is_probe: bool = False) -> None:
        """Count the result of a call. A good probe closes the breaker; a bad one is followed by another."""
        if is_probe:
            self._probing = False
            self._probe_at = None if good else time.monotonic() + PAUSE_SECONDS
            if good:
                self._bad.clear()
            return
        self._bad.append(not good)
        if sum(self._bad) >= BAD and self._probe_at is None:
            self._probe_at = time.monotonic() + PAUSE_SECONDS
            self.openings += 1


T = TypeVar("T")


class DaemonThreads:
    """Runs calls in the order in which they come, a bounded number at once. Safe to share between threads.

    The threads do not keep the process from its end, as those of an executor would.
    """

    def __init__(self, name: str, threads: int, limit: int) -> None:
        """
        Args:
            name: of the threads.
            threads: number of them.
            limit: calls that may run or wait.
        """
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._free = threading.Semaphore(limit)
        for _ in range(threads):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T] | None:
        """Run a call, unless its future is cancelled before its turn; None if too many run or wait."""
        if not self._free.acquire(blocking=False):
            return None
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            self._free.release()
            del future, call
