"""What a service ranks with, and how it keeps up: a funnel that is swapped between requests when its source changes.

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

WARM, FEW = 200, 20
"""Requests that a funnel ranks before it goes live: the last ones that came; made up where none did."""
PAUSE = 0.02
"""Seconds between two of them, for those who are served."""

Aside = Callable[[str], bool]


class Source(Protocol):
    def newer(self, held: Funnel | None) -> Funnel | None:
        """The funnel of the live version where the held one is another, or older; else None. Raises CorankError."""


class BundleSource:
    """A bundle's folder, whose content may be replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def newer(self, held: Funnel | None) -> Funnel | None:
        if held is not None and held.manifest.content == current_content(self.path):
            return None
        return Funnel(Bundle.open(self.path))


class StoreSource:
    """A store's live version, from a bundle in `cache`."""

    def __init__(self, store: Store, cache: Path, aside: Aside = lambda version: False) -> None:
        """`aside` fetches a version into the cache in a process of its own, if it can: while others are served."""
        self.store, self.cache, self._aside = store, cache, aside

    def newer(self, held: Funnel | None) -> Funnel | None:
        _, head = StoreState.read(self.store)
        live = head.require_live(self.store)
        if held is None or live != held.manifest.content:
            proven = held is not None and self._aside(live)
            return load_latest(self.store, live, Funnel(fetch_bundle(self.store, live, self.cache, proven)))
        if head.seq != held.manifest.items_seq:
            return catch_up(self.store, live, held)
        return None


class Follower:
    """Holds the funnel, and looks for a newer one from a thread of its own."""

    def __init__(self, source: Source, every: float = 1.0, report: Report = lambda line: None) -> None:
        """Raises CorankError where there is nothing to serve. `every`: seconds between two looks."""
        self.source, self.every, self.report = source, every, report
        self.trouble: str | None = None
        """Why the source could not be asked last time; what is held is served on."""
        funnel = source.newer(None)
        assert funnel is not None
        self.recent: deque[Request] = deque(maxlen=WARM)
        """The last requests that were ranked."""
        self._look, self._stop, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._warm(funnel, sample_requests(funnel), 0)
        self.funnel: Funnel = funnel
        self._thread = threading.Thread(target=self._follow, name="corank-follow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._look.set()
        self._thread.join()

    def soon(self) -> None:
        """Look again at once."""
        self._look.set()

    def look(self) -> None:
        """Ask the source, and take what is newer; if it cannot be asked, that is told and what is held stays."""
        with self._lock:
            try:
                newer = self.source.newer(self.funnel)
                if newer is not None and newer.manifest.content != self.funnel.manifest.content:
                    self._warm(newer, list(self.recent) or list(sample_requests(newer)))
            except Exception as error:
                # whatever it is, what is held is served on, and the next look may go well
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
        """Let it rank before it goes live: its first requests read tables from disk, and encode each value anew."""
        for request in requests:
            funnel.warm(request)
            if self._stop.wait(pause):
                return

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._look.wait(self.every)
            self._look.clear()
            if not self._stop.is_set():
                self.look()


def sample_requests(funnel: Funnel) -> Iterator[Request]:
    """A few requests, of items throughout."""
    ids = funnel.request_encoder.items.layers[0].records.ids.values
    for n in range(FEW):
        if some := ids.gather_every(max(1, len(ids) // 100), n % max(1, len(ids))).to_list():
            yield Request(user={}, candidates=some)
