"""The live funnel of a service, which is swapped between requests when its source changes.

A source is a store, whose head is followed, or a bundle on disk, whose manifest is.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from corank.bundle.bundle import Bundle, current_content
from corank.core.errors import CorankError
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.store.base import Store
from corank.serving.store.fetch import catch_up, fetch_bundle, load_latest
from corank.serving.store.live_version import StoreState

WARM_REQUESTS = 200
"""Recent requests that a funnel ranks before it goes live."""
SAMPLE_REQUESTS = 20
"""Made-up requests that it ranks if there are no recent ones."""
PAUSE = 0.02
"""Seconds between two of these requests, in which the service answers others."""

Prefetch = Callable[[str], bool]
"""Version → whether it has been fetched into the cache and verified."""


class Source(Protocol):
    """Where a service gets its funnel from."""

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """Load the live funnel; None if it is the held one. Raises CorankError."""


class BundleSource:
    """A bundle's folder, whose content may be replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """As `Source.load_newer`."""
        if held is not None and held.manifest.content == current_content(self.path):
            return None
        return Funnel(Bundle.open(self.path))


class StoreSource:
    """A store's live version, from a bundle in a cache on this machine."""

    def __init__(self, store: Store, cache: Path, prefetch: Prefetch = lambda version: False) -> None:
        """
        Args:
            store: to follow.
            cache: folder of fetched bundles.
            prefetch: fetches a version in a process of its own, while this one serves.
        """
        self.store, self.cache, self._prefetch = store, cache, prefetch

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """As `Source.load_newer`; of a held version only the changes of items are read."""
        _, state = StoreState.read(self.store)
        live = state.require_live(self.store)
        if held is None or live != held.manifest.content:
            verified = held is not None and self._prefetch(live)
            return load_latest(self.store, live, Funnel(fetch_bundle(self.store, live, self.cache, verified)))
        if state.seq != held.manifest.items_seq:
            return catch_up(self.store, live, held)
        return None


class Follower:
    """Holds the live funnel, and checks the source for a newer one in a thread of its own."""

    def __init__(self, source: Source, every: float = 1.0, report: Report = lambda line: None) -> None:
        """Load the live funnel and warm it.

        Args:
            source: of the funnel.
            every: seconds between two checks of the source.
            report: receives changes and errors.

        Raises CorankError if there is nothing to serve.
        """
        self.source, self.every, self.report = source, every, report
        self.trouble: str | None = None
        """Why the last check of the source failed, None if it did not; the held funnel stays live."""
        funnel = source.load_newer(None)
        assert funnel is not None
        self.recent: deque[Request] = deque(maxlen=WARM_REQUESTS)
        """The last requests that were ranked."""
        self._wake, self._stop, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._warm(funnel, sample_requests(funnel), 0)
        self.funnel: Funnel = funnel
        self._thread = threading.Thread(target=self._follow, name="corank-follow", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its end."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def request_refresh(self) -> None:
        """Make the thread check the source at once."""
        self._wake.set()

    def refresh(self) -> None:
        """Check the source now and swap in a newer funnel; on an error report it and keep the held funnel."""
        with self._lock:
            try:
                newer = self.source.load_newer(self.funnel)
                if newer is not None and newer.manifest.content != self.funnel.manifest.content:
                    self._warm(newer, list(self.recent) or list(sample_requests(newer)))
            except Exception as error:
                # any error: the held funnel is served on, and the next check may succeed
                if self.trouble is None:
                    self.report(f"serving on: {error if isinstance(error, CorankError) else repr(error)}")
                self.trouble = str(error)
                return
            if self.trouble is not None:
                self.report("the source answers again")
            self.trouble = None
            if newer is not None:
                if newer.manifest.content != self.funnel.manifest.content:
                    self.report(f"live: {newer.manifest.content}")
                self.funnel = newer

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
            if not self._stop.is_set():
                self.refresh()


def sample_requests(funnel: Funnel) -> Iterator[Request]:
    """Make up requests whose candidates are spread over the catalogue."""
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    for n in range(SAMPLE_REQUESTS):
        if candidates := ids.gather_every(max(1, len(ids) // 100), n % max(1, len(ids))).to_list():
            yield Request(user={}, candidates=candidates)
