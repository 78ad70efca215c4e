"""The stored columns of a request's user, for which the request waits a limited time, and never the event loop."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from corank.bundle.manifest import BundleManifest
from corank.core.reports import Report
from corank_serve.http.circuit_breaker import BAD, WINDOW, CircuitBreaker, DaemonThreads
from corank_serve.store.base import Store
from corank_serve.store.users import UserStore

THREADS = 4
"""Look-ups at once: a store may take time over each."""
LIMIT = 32
"""Look-ups that run or wait; a request beyond them does without."""
START_SECONDS, CLOSE_SECONDS = 10.0, 1.0
QUIET_SECONDS = 60.0
"""From the report of one outage to that of the next."""

Outcome = Literal["given", "stored", "new", "late", "failed", "skipped", "busy"]
"""Of a look-up: not needed; found; not in the store; no answer in time; an error; the circuit breaker is open; beyond
`LIMIT`."""
Call = Future[tuple[dict[str, Any] | None, float]]
"""A user's columns, and the seconds that the store took."""


FoundUser = tuple[Outcome, dict[str, Any] | None]
"""The outcome of a look-up, and the columns from the store."""


class UserLookup:
    """Looks users up in threads. While the store fails or is slow, a circuit breaker keeps requests from waiting."""

    def __init__(
        self,
        open_store: Callable[[], Store],
        seconds: float = 0.1,
        report: Report = lambda line: None,
    ) -> None:
        """
        Args:
            open_store: opens the store: one of its own, since a store may carry out its calls one after the other.
            seconds: longest time that a request waits.
            report: receives when look-ups stop, and when they resume.
        """
        self._open, self.seconds, self._report = open_store, seconds, report
        self._store: Store | None = None
        self._opening = threading.Lock()
        self.breaker = CircuitBreaker()
        self._told, self._told_openings = False, 0
        self.tell_at = 0.0
        """When the next outage may be reported, of the monotonic clock."""
        self._threads = DaemonThreads("corank-users", THREADS, LIMIT)

    def start(self) -> None:
        """Open the store, which may start a process; wait no longer than `START_SECONDS`."""
        if (call := self._threads.submit(self._opened)) is not None:
            wait([call], START_SECONDS)

    def close(self) -> None:
        """Close the store, if it was opened, unless a call to open it hangs."""
        if self._opening.acquire(timeout=CLOSE_SECONDS):
            if self._store is not None:
                self._store.close()
            self._opening.release()

    async def find(self, user: Mapping[str, Any], seconds: float) -> FoundUser:
        """Find the user of a request, unless it gives more of the user than an `id`.

        Args:
            user: of the request.
            seconds: that the request can wait; `self.seconds` bounds it, too.
        """
        if user.keys() - {"id"}:
            return "given", None
        id_ = user.get("id")
        if type(id_) not in (int, str):
            return "new", None  # no store knows such an id
        admitted = self.breaker.admit()
        if admitted == "skip":
            return "skipped", None
        call = self._threads.submit(partial(self._find, id_))
        if admitted == "probe":
            self._watch_probe(call)
            return "skipped", None
        answer = await self._wait_for(call, min(seconds, self.seconds))
        self.record(answer[0] in ("stored", "new"))
        return answer

    def _find(self, id_: Any) -> tuple[dict[str, Any] | None, float]:
        store, began = self._opened(), time.perf_counter()
        return UserStore(store).find(id_), time.perf_counter() - began

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = self._open()
            return self._store

    async def _wait_for(self, call: Call | None, seconds: float) -> FoundUser:
        if call is None:
            return "busy", None
        with suppress(Exception):
            await asyncio.wait_for(asyncio.wrap_future(call), seconds)
        if not call.done() or call.cancelled():
            return "late", None
        # it may have ended in time while the event loop was late
        try:
            columns, _ = call.result()
        except Exception:
            # a plug-in's store may raise anything; the request continues without
            return "failed", None
        return "new" if columns is None else "stored", columns

    def _watch_probe(self, call: Call | None) -> None:
        loop = asyncio.get_running_loop()

        def judge(done: Call) -> None:
            good = done.exception() is None and done.result()[1] <= self.seconds
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self.record, good, True)

        if call is None:
            self.record(False, is_probe=True)
        else:
            call.add_done_callback(judge)

    def record(self, good: bool, is_probe: bool = False) -> None:
        """Count the result of a look-up; report an outage, at most one a minute, and the end of a reported one."""
        self.breaker.record(good, is_probe)
        now = time.monotonic()
        if self.breaker.is_open and not self._told and now >= self.tell_at:
            times, self._told_openings = self.breaker.openings - self._told_openings, self.breaker.openings
            self._told, self.tell_at = True, now + QUIET_SECONDS
            self._report(
                f"users are not looked up: of the last {WINDOW} look-ups {BAD} failed or took over "
                f"{self.seconds * 1e3:g} ms" + (f"; {times} times since the last line" if times > 1 else "")
            )
        elif self._told and not self.breaker.is_open:
            self._told = False
            self._report("users are looked up again")


def lookup_seconds(manifest: BundleManifest) -> float:
    """Return how long a request of a model can wait: half the time of the stage that must be done first."""
    return min((stage.deadline_ms or math.inf for stage in manifest.stages), default=math.inf) / 2e3
