"""The funnel of a service, which is swapped between requests when its source changes.

`ServiceStatus` tells whether the service can serve, and how far what it serves is behind its source.
"""

import gc
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from corank.core.arrays import unmap_pages
from corank.core.errors import CorankError, TrustError
from corank.core.panics import panics_as_errors
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank_serve.http.process.worker_process import Drain
from corank_serve.http.user_lookup import UserLookup
from corank_serve.store.source import Source, describe_error, load_first


def release_memory() -> None:
    """Collect what was left, and keep what is alive out of later collections.

    A funnel lives until the next one, so its objects need not be visited by every collection. Free pages stay the
    process's (malloc_trim would keep requests from allocating meanwhile): the next version takes as many.
    """
    gc.collect()
    gc.freeze()


WARM_REQUESTS = 200
"""Recent requests that a funnel ranks before it goes live."""
SAMPLE_REQUESTS = 20
"""Made-up requests that it ranks if there are no recent ones."""
PAUSE = 0.02
"""Seconds between two of these requests, and between two checks of the source, in which the service answers others."""
STEP_PAUSE = 0.002
"""Seconds between two steps in which an old funnel is freed."""
STOP_SECONDS = 2.0
"""Time in which the thread must stop; a read that hangs is left behind."""


class Follower:
    """Holds the funnel, and checks the source for a newer one in a thread of its own."""

    def __init__(self, source: Source, every: float = 1.0, report: Report = lambda line: None) -> None:
        """Load the live funnel and warm it; from the cache if what is live cannot be read, or is refused.

        Args:
            source: of the funnel.
            every: seconds between two checks of the source.
            report: receives changes and errors.

        Raises CorankError if there is nothing to serve.
        """
        self.source, self.every, self.report = source, every, report
        funnel, error = load_first(source, report)
        self.trouble = None if error is None else describe_error(error)
        """Why the last check of the source failed, None if it did not; the held funnel stays live."""
        self.untrusted = isinstance(error, TrustError)
        """Whether it failed since no trusted key has signed what is live, or an older head was put back."""
        self.from_cache = error is not None
        """Whether the funnel was read from the cache alone, and not compared with the store since."""
        self.equal_at = time.monotonic()
        """When the last check that succeeded ended, after which the funnel equalled the source; or the start."""
        self.recent: deque[Request] = deque(maxlen=WARM_REQUESTS)
        """The last requests that were ranked."""
        self._waiting: deque[Future[None]] = deque()
        self._wake, self._stop, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._warm(funnel, sample_requests(funnel), 0)
        self.funnel: Funnel = funnel
        self._thread = threading.Thread(target=self._follow, name="corank-follow", daemon=True)

    @property
    def is_pinned(self) -> bool:
        """Whether it holds the version that the source is pinned to."""
        return self.funnel.manifest.content == self.source.pinned

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, wait for its end and close the source; a read that hangs is left behind."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        if not self._thread.is_alive():
            self.source.close()

    def request_refresh(self) -> None:
        """Make the thread check the source at once."""
        self._wake.set()

    def next_check(self) -> Future[None]:
        """Make the thread check the source at once; the result is there when a check that begins from now on ends."""
        done: Future[None] = Future()
        self._waiting.append(done)
        self._wake.set()
        return done

    def refresh(self) -> None:
        """Check the source now and swap in newer funnels; on an error report it and keep the held ones."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        resynchronised = self.source.resynchronised
        try:
            with panics_as_errors():
                newer = self.source.load_newer(self.funnel)
                if newer is not None and newer.manifest.content != self.funnel.manifest.content:
                    self._warm_recent(newer)
        except Exception as error:
            # any error: the held funnel is served on, and the next check may succeed
            untrusted = isinstance(error, TrustError)
            if self.trouble is None or untrusted != self.untrusted:
                self.report(f"serving on: {describe_error(error)}")
            self.trouble, self.untrusted = describe_error(error), untrusted
            return
        if self.trouble is not None:
            self.report("the source answers again")
        if self.source.resynchronised > resynchronised:
            self.report("the store had lost changes that were served: all of it was read anew")
        before, self.funnel = self.funnel, newer or self.funnel
        self._note_success()
        if before.manifest.content != self.funnel.manifest.content:
            self.report(f"{'pinned' if self.is_pinned else 'live'}: {self.funnel.manifest.content}")
            self._free(before)
            del before, newer
            release_memory()

    def _free(self, funnel: Funnel) -> None:
        """Take what is large of a funnel that was served out of memory, in steps between requests."""
        self._stop.wait(PAUSE)  # a request that has begun ends, so that this thread frees the rest
        for matrix in funnel.request_encoder.items.layers[0].parts.values():
            for _ in unmap_pages(matrix.values):
                self._stop.wait(STEP_PAUSE)

    def _note_success(self) -> None:
        """Note that what is served equals the source."""
        self.trouble, self.untrusted, self.from_cache = None, False, False
        self.equal_at = time.monotonic()
        try:
            self.source.note_live(self.funnel.manifest.content)
        except CorankError as error:
            self.report(str(error))

    def _warm_recent(self, funnel: Funnel) -> None:
        self._warm(funnel, list(self.recent) or list(sample_requests(funnel)))

    def _warm(self, funnel: Funnel, requests: Iterable[Request], pause: float = PAUSE) -> None:
        """Rank requests before the funnel goes live: its first ones read tables from disk and fill its caches."""
        for request in requests:
            funnel.warm(request)
            if self._stop.wait(pause):
                return

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self.every)
            self._wake.clear()
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not self._stop.is_set():
                self.refresh()
            for done in waiting:
                if done.set_running_or_notify_cancel():
                    done.set_result(None)
            # requests of unknown items, which anybody may send, must not make the thread check without end
            self._stop.wait(PAUSE)


def sample_requests(funnel: Funnel) -> Iterator[Request]:
    """Make up requests whose candidates are spread over the catalogue."""
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    for n in range(SAMPLE_REQUESTS):
        if candidates := ids.gather_every(max(1, len(ids) // 100), n % max(1, len(ids))).to_list():
            yield Request(user={}, candidates=candidates)


class ServiceStatus:
    """The current state of one worker process."""

    def __init__(self, follower: Follower, drain: Drain, users: UserLookup | None) -> None:
        """
        Args:
            follower: holds the live funnel.
            drain: begins when the process is asked to end.
            users: looks columns of users up.
        """
        self.follower, self.drain, self.users = follower, drain, users

    @property
    def is_ready(self) -> bool:
        """Whether requests should be sent here: a funnel is live from the start, with or without the source."""
        return self.drain.began is None or self.drain.service_goes_on

    @property
    def behind_seconds(self) -> float:
        """Seconds since what is served was known to equal the source; since the start if it never was."""
        return time.monotonic() - self.follower.equal_at

    @property
    def users_away(self) -> bool:
        """Whether users are not looked up, since look-ups failed or were late."""
        return self.users is not None and self.users.breaker.is_open

    def describe(self) -> dict[str, Any]:
        """Return all of it."""
        follower = self.follower
        return {
            "ready": self.is_ready,
            "draining": self.drain.began is not None,
            "source": follower.source.address,
            "source_up": follower.trouble is None,
            "source_error": follower.trouble,
            "source_untrusted": follower.untrusted,
            "from_cache": follower.from_cache,
            "version": follower.funnel.manifest.content,
            "pinned": follower.is_pinned,
            "served_seq": follower.funnel.manifest.items_seq,
            "known_seq": follower.source.known_seq,
            "behind_seconds": round(self.behind_seconds, 3),
            "resynchronised": follower.source.resynchronised,
            "users_looked_up": self.users is not None and not self.users_away,
        }
