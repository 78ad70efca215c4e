"""Metrics of the service for Prometheus: latencies, cut candidates, unknown items, refused requests, live version.

Worker processes write to one folder, PROMETHEUS_MULTIPROC_DIR, and each of them exposes the figures of all.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.http.asgi import HttpCall, HttpReply
from corank.serving.http.follower import ServiceStatus
from corank.serving.http.process.worker_process import MULTIPROC, RestartCounts
from corank.serving.http.versioned_ranking import BUCKETS, HeldSeries, VersionMetrics
from corank.serving.log.settings import Role

GAUGES: dict[str, tuple[str, Literal["livemin", "livemax"]]] = {
    "items_seq": ("Number of the last change of the items served", "livemin"),
    "ready": ("1 if requests should be sent here, 0 once the service was told to end", "livemin"),
    "source_up": ("1 if the last check of the source succeeded", "livemin"),
    "behind_seconds": ("Seconds since what is served was known to equal the source", "livemax"),
    "from_cache": (
        "1 if what is served was read from the cache, since the store was away at the start",
        "livemax",
    ),
    "users_away": ("1 if users are not looked up, since look-ups failed or were late", "livemax"),
}
"""Gauges → help, and which worker's value is exposed."""

LOG = (
    ("written", "Requests written to the log of served requests"),
    ("rejected", "Requests set aside by the log: no row of the log can hold them"),
    ("dropped", "Requests that the log lost: too many were waiting, or the disk refused"),
)

CUT_OFF = "Connections closed for a limit: crowded, slow, large, unread or invalid"


class ServiceMetrics:
    """The metrics of one worker process."""

    def __init__(self, status: ServiceStatus, restarts: RestartCounts | None = None) -> None:
        """
        Args:
            status: of the process.
            restarts: of the workers of the service; None for a process without a supervisor.
        """
        self._status, self._restarts = status, restarts or RestartCounts()
        self._registry = registry = CollectorRegistry()
        self.versions = VersionMetrics(registry)
        self._stage_seconds = Histogram(
            "corank_stage_seconds",
            "Time of encoding a request (receive) and of each stage, in seconds",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._candidates = Counter("corank_candidates", "Candidates received", registry=registry)
        self._cut = Counter("corank_cut", "Candidates that a stage cut", ["stage"], registry=registry)
        self._unknown = Counter(
            "corank_unknown_items",
            "Candidates that are neither in the bundle nor described",
            registry=registry,
        )
        self._missing = Counter(
            "corank_missing_columns", "Requests that lack a column", ["column"], registry=registry
        )
        self._clipped = Counter(
            "corank_clipped_numbers",
            "Numbers outside the range of training, which are clipped to it",
            ["column"],
            registry=registry,
        )
        self._warnings = Counter("corank_warnings", "Warnings of answers", ["kind"], registry=registry)
        self._fallback = Counter(
            "corank_fallbacks",
            "Answers in the order of an earlier stage: the stage that did not finish, and why",
            ["stage", "why"],
            registry=registry,
        )
        self._failed = Counter("corank_failed", "Requests whose first stage failed", registry=registry)
        self._make_traffic_metrics(registry)
        self._lookups = Counter(
            "corank_user_lookups",
            "Look-ups of users in the store: stored, new, late, failed, skipped (not tried), busy (too many)",
            ["outcome"],
            registry=registry,
        )
        self._logged = {name: Counter(f"corank_log_{name}", text, registry=registry) for name, text in LOG}
        self._make_status_metrics(registry)
        # cached, since finding a label takes as long as counting
        self._seconds_of, self._cut_by = cache(self._stage_seconds.labels), cache(self._cut.labels)
        self._requests_by = cache(self._requests.labels)
        self.update_gauges()

    def _make_traffic_metrics(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "corank_http_requests",
            "Requests by the name of their token and the status of their answer; 429: beyond the token's rate",
            ["token", "status"],
            registry=registry,
        )
        self._shed = Counter(
            "corank_shed", "Requests refused with 503, since too many were waiting", registry=registry
        )
        self._cut_off = Counter("corank_connections_cut", CUT_OFF, ["why"], registry=registry)
        self._access_log_dropped = Counter(
            "corank_access_log_dropped",
            "Lines that the access log lost: too many were waiting, or the disk refused",
            registry=registry,
        )

    def _make_status_metrics(self, registry: CollectorRegistry) -> None:
        self._gauges = {
            name: Gauge(f"corank_{name}", text, multiprocess_mode=worst, registry=registry)
            for name, (text, worst) in GAUGES.items()
        }
        self._resynchronised = Counter(
            "corank_resynchronised",
            "Times that a worker read all anew, since the store had lost changes that were served",
            registry=registry,
        )
        self._resynchronised_before = 0

    def observe(self, result: RankingResult, seconds: float, role: Role) -> None:
        """Count a request that was ranked by a version; `seconds` is the time from arrival to answer."""
        self.versions.observe(role, result, seconds)
        for name, part in result.seconds.items():
            self._seconds_of(name).observe(part)
        self._candidates.inc(len(result.encoded.ids) + len(result.encoded.unknown))
        for cut in result.cuts:
            self._cut_by(cut.stage).inc(len(cut.alive) - len(cut.kept))
        if result.encoded.unknown:
            self._unknown.inc(len(result.encoded.unknown))
        for column in result.encoded.missing:
            self._missing.labels(column).inc()
        for column, count in result.encoded.clipped.items():
            self._clipped.labels(column).inc(count)
        for warning in result.encoded.warnings:
            self._warnings.labels(warning.kind).inc()
        if result.fallback:
            self._fallback.labels(result.fallback["stage"], result.fallback["why"]).inc()

    def count_lookup(self, outcome: str) -> None:
        """Count a look-up of a user, unless the request gave all itself."""
        if outcome != "given":
            self._lookups.labels(outcome).inc()

    def count_shed(self) -> None:
        """Count a request that was refused since too many were waiting."""
        self._shed.inc()

    def count_request(self, call: HttpCall, reply: HttpReply, began: float) -> None:
        """Count a request that is answered; as an `Observer`."""
        self._requests_by(call.caller, reply.status).inc()

    def count_access_log_dropped(self, lines: int) -> None:
        """Count lines that the access log lost."""
        self._access_log_dropped.inc(lines)

    def count_cut_off(self, why: str) -> None:
        """Count a connection that was closed for a limit."""
        self._cut_off.labels(why).inc()

    def count_failed(self) -> None:
        """Count a request whose first stage failed."""
        self._failed.inc()

    def count_logged(self, counts: Mapping[str, int]) -> None:
        """Count what became of requests in the log: `written`, `rejected`, `dropped`."""
        for name, requests in counts.items():
            self._logged[name].inc(requests)

    def expose(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        self.update_gauges()
        registry = self._registry
        if os.environ.get(MULTIPROC):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        exposed = CollectorRegistry()
        exposed.register(HeldSeries(registry))
        exposed.register(self)
        return generate_latest(exposed), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Collect, for prometheus_client, what is counted for all workers at once."""
        family = CounterMetricFamily(
            "corank_worker_restarts",
            "Workers started again: in place of one that died, or that was replaced when settings were read anew",
            labels=["why"],
        )
        for why, count in self._restarts.read().items():
            family.add_metric([why], count)
        yield family

    def update_gauges(self) -> None:
        """Set gauges by the status: every second, whether requests come or not, since any worker may expose them."""
        status, manifest = self._status, self._status.follower.funnel.manifest
        self.versions.update_versions(manifest.model_version, status.follower.rollout)
        values = {
            "items_seq": manifest.items_seq,
            "ready": status.is_ready,
            "source_up": status.follower.trouble is None,
            "behind_seconds": status.behind_seconds,
            "from_cache": status.follower.from_cache,
            "users_away": status.users_away,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        resynchronised = status.follower.source.resynchronised
        self._resynchronised.inc(resynchronised - self._resynchronised_before)
        self._resynchronised_before = resynchronised
