"""Where a service gets its funnel from: a store, whose head is followed or one version of it, or a bundle.

Which version of a store was live last is noted beside the bundles of the cache: a service that starts while its store
is away, or what is live there cannot be served, serves that version.
"""

import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from corank.bundle.bundle import Bundle, find_manifest, is_proven
from corank.bundle.signatures import TrustedKeys, is_content_name
from corank.core.artifact import Proofs
from corank.core.errors import BundleError, CorankError, StoreError, TrustError
from corank.core.files import atomic_file
from corank.core.objects import Location
from corank.core.reports import Report
from corank.funnel.funnel import SOURCES, Funnel
from corank_serve.store.base import CACHE, Store, find_store_class, hide_password, open_store
from corank_serve.store.claims import RENEW_SECONDS, write_lease
from corank_serve.store.fetch import catch_up, fetch_bundle, load_latest, locked, open_cached
from corank_serve.store.journal import holds_change
from corank_serve.store.live_version import StoreState, TrustedLive


def write_last_live(cache: Path, url: str, version: str) -> None:
    """Note which version of a store is served. Raises BundleError if the cache cannot be written."""
    note = {"store": identify_store(url), "version": version}
    path = _note_path(cache, url)
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(msgspec.json.encode(note))
    except OSError as error:
        raise BundleError(f"{path}: which version is live cannot be noted there: {error}") from None


def open_last_live(cache: Path, url: str, proofs: Proofs | None = None) -> Bundle | None:
    """Open and verify the bundle of a store that was served last; None if the cache does not have it whole."""
    try:
        note = msgspec.json.decode(_note_path(cache, url).read_bytes(), type=dict[str, str])
        if note["store"] != identify_store(url) or not is_content_name(note["version"]):
            return None
        return open_cached(cache, note["version"], proofs=proofs)
    except (OSError, KeyError, msgspec.DecodeError, UnicodeDecodeError, BundleError):
        return None


def identify_store(url: str) -> str:
    """What tells a store from others: its address without password, with an absolute path if it is a folder."""
    if "://" in url:
        return hide_password(url)
    scheme, _, rest = url.partition(":")
    return f"{scheme}:{Path(rest.partition('?')[0]).absolute()}"


def _note_path(cache: Path, url: str) -> Path:
    return cache / f"live-{hashlib.sha256(identify_store(url).encode()).hexdigest()[:16]}.json"


Prefetch = Callable[[str], bytes | None]
"""Fetches a version into the cache: version → the proof that it was verified, None if that failed."""


@dataclass(frozen=True)
class SharedLoading:
    """What the workers of a service share to load versions, one worker after another."""

    proofs: Proofs = field(default_factory=set[bytes])
    """Of contents that one of them has verified."""
    lock: Path | None = None
    """A file that the one that loads locks; None for a single worker."""

    def turn(self) -> AbstractContextManager[None]:
        """Wait until no other worker loads a version, and keep others waiting. Raises BundleError."""
        return nullcontext() if self.lock is None else locked(self.lock)


class Source(ABC):
    """Where a service gets its funnel from."""

    without_items: ClassVar[str]
    """Why it takes no items, if it takes none."""
    pinned: str | None = None
    """The version to serve whichever is live, unless it is withdrawn; None to serve what is live."""

    def __init__(self, address: str, loading: SharedLoading | None = None) -> None:
        """`address`: for messages; `loading`: with other workers of the service."""
        self.address, self.loading = address, loading or SharedLoading()
        self.known_seq: int | None = None
        """Number of the last change that it is known to have; None if it has not been read."""
        self.resynchronised = 0
        """How often it had lost a change that was served, so that all was read anew."""

    @abstractmethod
    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """Load the live funnel; None if it is the held one. Raises CorankError."""

    def load_cached(self) -> Funnel | None:
        """Load the funnel that was live last on this machine, without the source; None if there is none."""
        return None

    def note_live(self, version: str) -> None:  # noqa: B027
        """Note for a later start which version is live. Raises CorankError if that cannot be written."""

    def close(self) -> None:  # noqa: B027
        """Release what was opened to read it."""


class BundleSource(Source):
    """A bundle's folder, or its URL; its content may be replaced. It says itself what is live."""

    without_items = "a bundle is served, and takes no items; `corank publish` it, and serve the store"

    def __init__(
        self, location: Location, trust: TrustedKeys | None = None, loading: SharedLoading | None = None
    ) -> None:
        """
        Args:
            location: the folder, or its URL in object storage.
            trust: keys, one of which must have signed the bundle; None if it need not be signed.
            loading: with other workers of the service.
        """
        super().__init__(str(location), loading)
        self.location, self._trust = location, trust

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """As `Source.load_newer`."""
        now = None if held is None else find_manifest(self.location)
        if held is not None and now is not None and now.content == held.manifest.content:
            return None
        with self.loading.turn():
            funnel = Funnel(Bundle.open(self.location, self._trust, self.loading.proofs))
        self.known_seq = funnel.manifest.items_seq
        return funnel


class StoreSource(Source):
    """A store's live version, from a bundle in a cache on this machine."""

    without_items = (
        "signed versions alone are served (--trust), and upserted items are not signed; refresh the bundle, and "
        "publish it with --sign"
    )

    def __init__(
        self,
        store: Store | str,
        cache: Path,
        prefetch: Prefetch = lambda version: None,
        trust: TrustedKeys | None = None,
        loading: SharedLoading | None = None,
        report: Report = lambda line: None,
    ) -> None:
        """
        Args:
            store: to follow; one that is given by its URL is opened when it is read first, and may be away until then.
            cache: folder of fetched bundles.
            prefetch: fetches a version in a process of its own, while this one serves.
            trust: keys, one of which must have signed what is live; None if it need not be signed.
            loading: with other workers of the service.
            report: receives which items the live version refuses of those that another one took.
        """
        self.url = store if isinstance(store, str) else store.address
        super().__init__(hide_password(self.url), loading)
        self.cache, self.prefetch, self._report = cache, prefetch, report
        self._opened = None if isinstance(store, str) else store
        self._own, self._opening = self._opened is None, threading.Lock()
        self._noted: str | None = None
        self.keys = trust
        self.trusted = TrustedLive(trust, self.address, cache) if trust is not None else None
        """Tells what is live by a signature. Upserted items are not taken then, since they are not signed."""
        self._position: tuple[int, str] | None = None
        """Number and id of the change that was loaded last."""

    def open(self) -> Store:
        """Open the store, if it is not open. Raises StoreError."""
        with self._opening:
            if self._opened is None:
                self._opened = open_store(self.url)
            return self._opened

    def fetch(self, store: Store, version: str, aside: bool) -> Funnel:
        """Fetch the bundle of a version, `aside` in a process of its own first. Raises as `fetch_bundle`."""
        proofs = self.loading.proofs
        with self.loading.turn():
            if aside and not is_proven(self.cache / version, proofs) and (proof := self.prefetch(version)):
                proofs.add(proof)
            return Funnel(fetch_bundle(store, version, self.cache, self.keys, proofs))

    def load_cached_version(self, version: str) -> Funnel:
        """Load a version from the cache alone. Raises BundleError, TrustError."""
        return Funnel(open_cached(self.cache, version, self.keys, self.loading.proofs))

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """As `Source.load_newer`; of a held version only the changes of items are read."""
        store = self.open()
        _, state = StoreState.read(store)
        live = state.require_live(store)
        self.known_seq = state.seq
        if self.trusted is not None:
            return self._load_signed(self.trusted, store, state, held)
        return self._load_version(store, state, live, held)

    def _load_version(
        self, store: Store, state: StoreState, version: str, held: Funnel | None
    ) -> Funnel | None:
        """Load a version with all items that changed since, or what changed of the held one; None if nothing did."""
        if held is None or version != held.manifest.content:
            newer = load_latest(store, version, self.fetch(store, version, held is not None), self._report)
        elif (state.seq, state.id) == self._position:
            return None
        else:
            newer = catch_up(store, version, held, self._report)
        self.resynchronised += self._position is not None and not holds_change(store, state, *self._position)
        self._position = newer.manifest.items_seq, newer.manifest.items_id
        return newer

    def _load_signed(
        self, trusted: TrustedLive, store: Store, state: StoreState, funnel: Funnel | None
    ) -> Funnel | None:
        """Load the live version by what a trusted key signed, without later changes of items."""
        live = state.require_live(store)
        statement = trusted.check(live, state.require_version(store, live).manifest, state.statement)
        self.known_seq = statement.seq
        if funnel is None or live != funnel.manifest.content:
            funnel = self.fetch(store, live, funnel is not None)
        elif statement.seq == funnel.manifest.items_seq:
            return None
        trusted.keep(statement)
        return funnel.with_changes(statement.seq, statement.items_id)

    def load_cached(self) -> Funnel | None:
        """As `Source.load_cached`."""
        if self.trusted is not None:
            with suppress(BundleError, TrustError):
                if kept := self.trusted.read_kept():
                    return self.load_cached_version(kept.version).with_changes(kept.seq, kept.items_id)
            return None
        bundle = open_last_live(self.cache, self.url, self.loading.proofs)
        return None if bundle is None else Funnel(bundle)

    def note_live(self, version: str) -> None:
        """As `Source.note_live`; a version is noted once."""
        if version != self._noted:
            write_last_live(self.cache, self.url, version)
            self._noted = version

    def close(self) -> None:
        """As `Source.close`; the next read opens the store again. One that was given opened is left as it is."""
        with self._opening:
            if self._own and self._opened is not None:
                self._opened.close()
                self._opened = None


class PinnedSource(StoreSource):
    """One version of a store, with items that change; what is live, while that version is withdrawn.

    So `corank store withdraw` ends a version in all services at once, and costs no request.
    """

    def __init__(self, version: str, *args: Any, **settings: Any) -> None:
        """`version`: to serve; the others as of `StoreSource`."""
        super().__init__(*args, **settings)
        self.version = self.pinned = version
        self._withdrawn, self._renew_at, self._leased = False, 0.0, True

    def load_newer(self, held: Funnel | None) -> Funnel | None:
        """As `Source.load_newer`. Raises StoreError if the store lacks the version."""
        store = self.open()
        _, state = StoreState.read(store)
        before, self._withdrawn = self._withdrawn, state.require_version(store, self.version).withdrawn
        if self._withdrawn:
            if not before:
                self._report(f"{self.version} was withdrawn: what is live is served until it is staged again")
            return super().load_newer(held)
        self.known_seq = state.seq
        self._renew_lease(store)
        if self.keys is None:
            return self._load_version(store, state, self.version, held)
        if held is None or held.manifest.content != self.version:
            return self.fetch(store, self.version, held is not None)
        return None  # upserted items are not signed

    def _renew_lease(self, store: Store) -> None:
        """Tell the store, and the cache of this machine, now and then that the version is needed."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + RENEW_SECONDS
        with suppress(OSError):
            os.utime(self.cache / self.version)
        try:
            write_lease(store, self.version)
            self._leased = True
        except StoreError as error:
            if self._leased:
                self._report(f"{self.version}: `corank store prune` may remove it: {error}")
            self._leased = False

    def load_cached(self) -> Funnel | None:
        """As `Source.load_cached`: the version, if the cache has it."""
        with suppress(BundleError, TrustError):
            return self.load_cached_version(self.version)
        return None

    def note_live(self, version: str) -> None:
        """What is live is noted by who follows it."""


def describe_error(error: Exception) -> str:
    """An error in words: one that is not corank's with its type."""
    return str(error) if isinstance(error, CorankError) else repr(error)


def load_first(source: Source, report: Report = lambda line: None) -> tuple[Funnel, Exception | None]:
    """Load the first funnel of a source, from the cache if what is live cannot be read, or is refused.

    Returns:
        The funnel, and why it is of the cache; None if it is of the source.

    Raises CorankError if there is nothing to serve.
    """
    try:
        funnel = source.load_newer(None)
        assert funnel is not None
    except Exception as error:
        # any error: whoever can write to a store must not keep services down
        cached = source.load_cached()
        if cached is None:
            raise
        report(
            f"{describe_error(error)}; serving {cached.manifest.content}, which was served last, from the cache, "
            "without items that changed since"
        )
        return cached, error
    source.note_live(funnel.manifest.content)
    return funnel, None


@SOURCES.register("store")
def open_live(address: str, trust: TrustedKeys | None, cache: Path | None) -> Funnel | None:
    """Open what is live in a store, or was live last by the cache; None for an address of something else."""
    if find_store_class(address) is None:  # another source may take it
        return None
    with closing(open_store(address)) as store:
        return load_first(StoreSource(store, CACHE if cache is None else cache, trust=trust))[0]
