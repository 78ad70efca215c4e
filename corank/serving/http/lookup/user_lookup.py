"""The stored columns of a request's user, for which the request waits a limited time, and never the event loop."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec

from corank.bundle.manifest import BundleManifest
from corank.core.types import Report
from corank.serving.http.lookup.circuit_breaker import BAD, WINDOW, CircuitBreaker
from corank.serving.http.process.daemon_threads import DaemonThreads
from corank.serving.store.base import Store
from corank.serving.store.users import UserStore

THREADS = 4
"""Look-ups at once: a store may take time over each."""
LIMIT = 32
"""Look-ups that run or wait; a request beyond them does without."""

Outcome = Literal["given", "stored", "new", "late", "failed", "skipped", "busy"]
"""Of a look-up: not needed; found; not in the store; no answer in time; an error; the circuit breaker is open or the
store was never reached; beyond `LIMIT`."""
Call = Future[tuple[dict[str, Any] | None, float]]
"""A user's columns, and the seconds that the store took."""


@dataclass(frozen=True)
class FoundUser:
    """What a look-up found."""

    outcome: Outcome
    columns: dict[str, Any] | None = None
    """From the store."""

    @property
    def origin(self) -> str:
        """What the answer says of the user: given, stored, new, unavailable."""
        return self.outcome if self.outcome in ("given", "stored", "new") else "unavailable"


GIVEN = FoundUser("given")


class _UserField(msgspec.Struct):
    """Of a request's body, the user alone."""

    user: dict[str, msgspec.Raw] = {}


_user_decoder = msgspec.json.Decoder(_UserField)


class UserLookup:
    """Looks users up in threads. While the store fails or is slow, a circuit breaker keeps requests from waiting."""

    def __init__(
        self,
        opened_store: Callable[[], Store | None],
        seconds: float = 0.02,
        report: Report = lambda line: None,
    ) -> None:
        """
        Args:
            opened_store: returns the store, None while it has not been reached.
            seconds: longest time that a request waits.
            report: receives when look-ups stop, and when they go on.
        """
        self._store, self.seconds, self._report = opened_store, seconds, report
        self.breaker = CircuitBreaker()
        self._threads = DaemonThreads("corank-users", THREADS, LIMIT)

    async def find(self, body: bytes, seconds: float) -> FoundUser:
        """Find the user of a request whose body gives no more of the user than an `id`.

        Args:
            body: of the request; one that cannot be decoded counts as `given`.
            seconds: that the request can wait; `self.seconds` bounds it, too.
        """
        try:
            user = _user_decoder.decode(body).user
            id_ = msgspec.json.decode(user["id"]) if "id" in user else None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return GIVEN
        if user.keys() - {"id"}:
            return GIVEN
        if type(id_) not in (int, str):
            return FoundUser("new")  # no store knows such an id
        return await self._look_up(id_, min(seconds, self.seconds))

    async def _look_up(self, id_: Any, seconds: float) -> FoundUser:
        store = self._store()
        admitted = "skip" if store is None else self.breaker.admit()
        if store is None or admitted == "skip":
            return FoundUser("skipped")
        call = self._threads.submit(partial(_timed_find, store, id_))
        if admitted == "probe":
            self._watch_probe(call)
            return FoundUser("skipped")
        found = await self._wait_for(call, seconds)
        self._record(found.outcome in ("stored", "new"))
        return found

    async def _wait_for(self, call: Call | None, seconds: float) -> FoundUser:
        if call is None:
            return FoundUser("busy")
        with suppress(Exception):
            await asyncio.wait_for(asyncio.wrap_future(call), seconds)
        if not call.done() or call.cancelled():
            return FoundUser("late")
        # it may have ended in time while the event loop was late
        try:
            columns, _ = call.result()
        except Exception:
            # a plug-in's store may raise anything; the request goes on without
            return FoundUser("failed")
        return FoundUser("new") if columns is None else FoundUser("stored", columns)

    def _watch_probe(self, call: Call | None) -> None:
        loop = asyncio.get_running_loop()

        def finish(good: bool) -> None:
            self.breaker.record_probe(good)
            if good:
                self._report("users are looked up again")

        def judge(done: Call) -> None:
            good = done.exception() is None and done.result()[1] <= self.seconds
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(finish, good)

        if call is None:
            finish(False)
        else:
            call.add_done_callback(judge)

    def _record(self, good: bool) -> None:
        was_open = self.breaker.is_open
        self.breaker.record(good)
        if self.breaker.is_open and not was_open:
            self._report(
                f"users are not looked up: of the last {WINDOW} look-ups {BAD} failed or took over "
                f"{self.seconds * 1e3:g} ms"
            )


def lookup_seconds(manifest: BundleManifest) -> float:
    """Return how long a request of a model can wait: half the time of the stage that must be done first."""
    return min((stage.deadline_ms or math.inf for stage in manifest.stages), default=math.inf) / 2e3


def _timed_find(store: Store, id_: Any) -> tuple[dict[str, Any] | None, float]:
    began = time.perf_counter()
    return UserStore(store).find(id_), time.perf_counter() - began
