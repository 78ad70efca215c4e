"""The versions that a worker holds with the live one, and which of them answers a request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from corank.core.errors import ConfigError, StoreError
from corank.core.types import Report
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.http.lookup.circuit_breaker import BAD, WINDOW, CircuitBreaker
from corank.serving.http.rollout.canary_share import CanaryShare
from corank.serving.http.rollout.candidate import Candidate
from corank.serving.http.source import Source, StoreSource
from corank.serving.role import CANARY, SHADOW, Role
from corank.serving.store.live_version import StoreState


@dataclass(frozen=True)
class CanaryAssignment:
    """A canary that answers a request."""

    funnel: Funnel
    is_probe: bool
    """Whether it failed lately, and is tried again."""


class Rollout:
    """A canary and a shadow, each None if there is none."""

    def __init__(
        self,
        share: CanaryShare | None = None,
        canary: Candidate | None = None,
        shadow: Candidate | None = None,
        report: Report = lambda line: None,
    ) -> None:
        """
        Args:
            share: of the canary's users.
            canary: answers them.
            shadow: scores the same requests.
            report: receives when the canary fails, and when it answers again.
        """
        self.share, self.canary, self.shadow, self._report = share, canary, shadow, report
        self.breaker = CircuitBreaker()

    @classmethod
    def open(
        cls, source: Source, canary: str | None, shadow: str | None, report: Report = lambda line: None
    ) -> "Rollout":
        """Open the canary and the shadow of a service.

        Args:
            source: of the live version.
            canary: `VERSION:SHARE%`; None for no canary.
            shadow: a version; None for no shadow.
            report: receives what becomes of them.

        Raises ConfigError if the source is no store.
        """
        if canary is None and shadow is None:
            return cls()
        if not isinstance(source, StoreSource):
            raise ConfigError(
                f"--canary, --shadow: {source.address} is a bundle, and has one version; `corank publish` bundles, and "
                "serve the store"
            )
        share = None if canary is None else CanaryShare.parse(canary)
        return cls(
            share,
            None if share is None else Candidate(source, share.version, CANARY, report),
            None if shadow is None else Candidate(source, shadow, SHADOW, report),
            report,
        )

    @property
    def candidates(self) -> Iterator[Candidate]:
        """Those that there are."""
        return (one for one in (self.canary, self.shadow) if one is not None)

    @property
    def roles(self) -> list[Role]:
        """Of all candidates."""
        return [one.role for one in self.candidates]

    def check_versions(self, source: Source) -> None:
        """Raise StoreError if the store does not have a version. One that cannot be read is not asked."""
        if not isinstance(source, StoreSource):
            return
        wanted = list(self.candidates)
        if not wanted:
            return
        try:
            store = source.open()
            _, state = StoreState.read(store)
        except StoreError:
            return
        for one in wanted:
            if one.version not in state.versions:
                known = ", ".join(state.versions) or "none"
                raise StoreError(
                    f"--{one.role}: {store.address}: no version {one.version!r}; there are {known}"
                )

    def refresh(self, warm: Callable[[Funnel], None], first: bool = False) -> None:
        """Refresh all candidates, as `Candidate.refresh`."""
        for one in self.candidates:
            one.refresh(warm, first)

    def assign(self, request: Request) -> CanaryAssignment | None:
        """Return the canary if it is to answer a request; report its result with `record`."""
        canary, share = self.canary, self.share
        if canary is None or share is None or (funnel := canary.funnel) is None:
            return None
        if not share.takes(request.user.get("id")):
            return None
        admitted = self.breaker.admit()
        return None if admitted == "skip" else CanaryAssignment(funnel, admitted == "probe")

    def record(self, assigned: CanaryAssignment, good: bool) -> None:
        """Count whether the canary answered. One that fails often answers nobody for a while."""
        was_open = self.breaker.is_open
        if assigned.is_probe:
            self.breaker.record_probe(good)
        else:
            self.breaker.record(good)
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
