"""The versions of a store that a worker holds with the live one: a canary, which answers some users, and a shadow.

If one fails, the service continues with the live version and reports it.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from corank.core.errors import BundleError, ConfigError, RequestError, StoreError, TrustError
from corank.core.panics import panics_as_errors
from corank.core.reports import Report
from corank.funnel.funnel import Funnel
from corank.funnel.ranking import CANARY, LIVE, SHADOW, Ranking, Role
from corank.funnel.request import Request
from corank_serve.http.circuit_breaker import BAD, WINDOW, CircuitBreaker
from corank_serve.http.serve_settings import CanaryShare
from corank_serve.store.base import Store
from corank_serve.store.claims import RENEW_SECONDS, write_lease
from corank_serve.store.fetch import catch_up, load_latest
from corank_serve.store.live_version import StoreState
from corank_serve.store.source import Source, StoreSource, describe_error

LONGEST_PAUSE = 60.0
"""Seconds between two tries to load a version that cannot be loaded; the first is tried again after one."""

Situation = Literal["served", "live", "withdrawn", "missing", "unavailable"]
"""Of a candidate: it is served; it is the live version itself; its canary was ended; the store does not have it; it
could not be read so far."""


class Candidate:
    """The funnel of one version, which follows the changes of its store's items."""

    def __init__(
        self, source: StoreSource, version: str, role: Role, report: Report = lambda line: None
    ) -> None:
        """
        Args:
            source: of the live version.
            version: to hold.
            role: `canary` or `shadow`.
            report: receives what becomes of it.
        """
        self.version, self.role = version, role
        self.funnel: Funnel | None = None
        """None while the version is not served."""
        self.situation: Situation = "unavailable"
        self.trouble: str | None = None
        """Why it could not be read last, whether an earlier state of it is loaded or not."""
        self.source, self._report = source, report
        self._pause, self._retry_at, self._renew_at, self._leased = 1.0, 0.0, 0.0, True

    def refresh(self, warm: Callable[[Funnel], None], first: bool = False) -> None:
        """Load the version or what changed of it; end it if it went live. No error is raised.

        Args:
            warm: ranks requests with a funnel before it is served.
            first: whether the service has not begun, so that the version is fetched at full speed.
        """
        if time.monotonic() < self._retry_at:
            return
        try:
            store = self.source.open()
            _, state = StoreState.read(store)
        except StoreError as error:
            self._load_cached()
            self._note_trouble(error)
            return
        try:
            with panics_as_errors():
                situation = self._read(store, state, warm, first)
        except Exception as error:
            # of any kind, such as a broken graph: the live version is served on, and the next try may succeed
            self._note_trouble(error)
            return
        self.trouble, self._pause = None, 1.0
        self._move_to(situation)

    def _read(
        self, store: Store, state: StoreState, warm: Callable[[Funnel], None], first: bool
    ) -> Situation:
        """Bring the funnel to the state of the store. Raises CorankError, and what a broken bundle raises."""
        if state.live == self.version:
            return "live"
        if self.version not in state.versions:
            self.funnel, self.situation = None, "missing"
        if state.require_version(store, self.version).withdrawn and self.role == CANARY:
            return "withdrawn"
        self._renew_lease(store)
        if self.funnel is None:
            funnel = self.source.fetch(store, self.version, not first)
            if self.source.trusted is None:  # else without upserted items, which are not signed
                funnel = load_latest(store, self.version, funnel)
            warm(funnel)
            self.funnel = funnel
        elif self.source.trusted is None:
            self.funnel = catch_up(store, self.version, self.funnel)
        return "served"

    def _renew_lease(self, store: Store) -> None:
        """Tell the store, and the cache of this machine, now and then that the version is needed."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + RENEW_SECONDS
        with suppress(OSError):
            os.utime(self.source.cache / self.version)
        try:
            write_lease(store, self.version, self.role)
            self._leased = True
        except StoreError as error:
            if self._leased:
                self._report(
                    f"{self.role} {self.version}: cannot be noted in the store, so that `corank store prune` may "
                    f"remove it: {error}"
                )
            self._leased = False

    def _load_cached(self) -> None:
        """Hold the bundle of the cache while the store is away, so that users keep their version over a restart."""
        if self.funnel is not None or self.situation != "unavailable" or self.trouble is not None:
            return
        with suppress(BundleError, TrustError):
            self.funnel, self.situation = self.source.load_cached_version(self.version), "served"

    def _note_trouble(self, error: Exception) -> None:
        """Report once why the version cannot be read; retry later if no state of it is loaded."""
        text = describe_error(error)
        if self.trouble is None:
            state = (
                "as of the last change that was read" if self.funnel is not None else "the live version alone"
            )
            self._report(f"{self.role} {self.version}: {text}; serving {state}")
        self.trouble = text
        if self.funnel is None:
            self._retry_at, self._pause = time.monotonic() + self._pause, min(LONGEST_PAUSE, 2 * self._pause)

    def _move_to(self, situation: Situation) -> None:
        if situation != "served":
            self.funnel = None
        if situation == self.situation:
            return
        self.situation = situation
        words = {
            "live": "has gone live, and ends as such",
            "withdrawn": "was withdrawn; its users get the live version",
            "served": "is served",
        }
        self._report(f"{self.role} {self.version} {words[situation]}")

    def describe(self) -> dict[str, Any]:
        """Return its state, for /status."""
        manifest = None if self.funnel is None else self.funnel.manifest
        return {
            "role": self.role,
            "version": self.version,
            "situation": self.situation,
            "error": self.trouble,
            "model_version": manifest and manifest.model_version,
            "served_seq": manifest and manifest.items_seq,
        }


CountError = Callable[[str, Role, str], None]
"""Counts a request that a version could not rank: the version, its role, and why: refused or failed."""


class Rollout:
    """A canary and a shadow, each None if there is none."""

    def __init__(
        self,
        source: Source | None = None,
        canary: str | None = None,
        shadow: str | None = None,
        report: Report = lambda line: None,
    ) -> None:
        """
        Args:
            source: of the live version.
            canary: `VERSION:SHARE%`; None for no canary.
            shadow: a version; None for no shadow.
            report: receives what becomes of them.

        Raises ConfigError if the source is no store.
        """
        self.share: CanaryShare | None = None
        self.canary: Candidate | None = None
        self.shadow: Candidate | None = None
        self._report, self.breaker = report, CircuitBreaker()
        if source is None or (canary is None and shadow is None):
            return
        if not isinstance(source, StoreSource):
            raise ConfigError(
                f"--canary, --shadow: {source.address} is a bundle, and has one version; `corank publish` bundles, and "
                "serve the store"
            )
        if canary is not None:
            self.share = CanaryShare.parse(canary)
            self.canary = Candidate(source, self.share.version, CANARY, report)
        if shadow is not None:
            self.shadow = Candidate(source, shadow, SHADOW, report)

    @property
    def candidates(self) -> list[Candidate]:
        """Those that there are."""
        return [one for one in (self.canary, self.shadow) if one is not None]

    def check_versions(self) -> None:
        """Raise StoreError if neither the store nor the cache has a version. A store that cannot be read is not asked.

        What was served here before is no mistake of who starts the service, but of who wrote to the store.
        """
        for one in self.candidates:
            try:
                store = one.source.open()
                _, state = StoreState.read(store)
            except StoreError:
                return
            if one.version not in state.versions and not (one.source.cache / one.version).exists():
                known = ", ".join(state.versions) or "none"
                raise StoreError(
                    f"--{one.role}: {store.address}: no version {one.version!r}; there are {known}"
                )

    def refresh(self, warm: Callable[[Funnel], None], first: bool = False) -> None:
        """Refresh all candidates, as `Candidate.refresh`."""
        for one in self.candidates:
            one.refresh(warm, first)

    def rank(
        self, live: Sequence[Funnel], batch: Sequence[Ranking], count_error: CountError
    ) -> list[Funnel | Exception]:
        """Rank requests by the live version, and those of the canary's users by the canary, unless it fails.

        Args:
            live: the funnel of the live version for each request.
            batch: requests of users, by whom they are assigned.
            count_error: counts what the canary cannot rank.

        Returns for each what ranked it, or what the live version raises.
        """
        canary = None if self.canary is None else self.canary.funnel
        admitted = [None if canary is None else self._admit(one.request) for one in batch]
        by_canary = _run([canary if one else None for one in admitted], batch)
        by_live = _run(
            [
                None if isinstance(one, Funnel) else funnel
                for funnel, one in zip(live, by_canary, strict=True)
            ],
            batch,
        )
        outcomes: list[Funnel | Exception] = []
        for ranking, how, first, second in zip(batch, admitted, by_canary, by_live, strict=True):
            if how is not None and canary is not None:
                refused = isinstance(first, RequestError)
                # refused by both: not the canary is at fault
                self._record(how == "probe", second is None or (isinstance(second, Exception) and refused))
                if isinstance(second, Funnel):
                    count_error(canary.manifest.model_version, CANARY, "refused" if refused else "failed")
            ranking.role = CANARY if second is None else LIVE
            outcome = second or first
            assert outcome is not None
            outcomes.append(outcome)
        return outcomes

    def _admit(self, request: Request) -> Literal["call", "probe"] | None:
        """Whether the canary is to answer a request, or to be tried by it after it failed lately."""
        if self.share is None or not self.share.takes(request.user.get("id")):
            return None
        admitted = self.breaker.admit()
        return None if admitted == "skip" else admitted

    def _record(self, is_probe: bool, good: bool) -> None:
        """Count whether the canary answered. One that fails often answers nobody for a while."""
        was_open = self.breaker.is_open
        self.breaker.record(good, is_probe)
        assert self.canary is not None
        if self.breaker.is_open and not was_open:
            self._report(
                f"canary {self.canary.version}: of its last {WINDOW} requests {BAD} failed; its users get the live "
                "version"
            )
        elif was_open and not self.breaker.is_open:
            self._report(f"canary {self.canary.version} answers again")

    def describe(self) -> list[dict[str, Any]]:
        """Return the state of all candidates, for /status."""
        states = [one.describe() for one in self.candidates]
        for one in states:
            if one["role"] == CANARY and self.share is not None:
                one |= {"share": self.share.share, "failing": self.breaker.is_open}
        return states


def _run(funnels: Sequence[Funnel | None], batch: Sequence[Ranking]) -> list[Funnel | Exception | None]:
    """Run each request by its funnel, those of one at once: the funnel, or its error; None for one without."""
    outcomes: list[Funnel | Exception | None] = [*funnels]
    for funnel in {id(one): one for one in funnels if one is not None}.values():
        numbers = [n for n, one in enumerate(funnels) if one is funnel]
        try:
            errors = funnel.run_many([batch[n] for n in numbers], bounded=True)
        except Exception as error:  # a broken graph or a plug-in's stage may raise anything
            errors = [error] * len(numbers)
        for n, failed in zip(numbers, errors, strict=True):
            outcomes[n] = failed or funnel
    return outcomes
