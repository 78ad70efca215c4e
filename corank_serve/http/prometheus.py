"""Metrics of the service for Prometheus: of requests, the process, and the version that is served.

Worker processes write to one folder, PROMETHEUS_MULTIPROC_DIR, and each of them exposes the figures of all.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    Summary,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from corank.core.version import register_version
from corank.funnel.ranking import Ranking
from corank_serve.http.asgi import HttpCall, HttpReply
from corank_serve.http.follower import ServiceStatus
from corank_serve.http.process.worker_process import MULTIPROC, RestartCounts

BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the latency histograms, seconds."""
BATCHES = (1, 2, 4, 8, 16)
"""Upper bounds of the histogram of requests that are ranked together."""
RESTARTS = "worker_restarts"

COUNTERS: dict[str, tuple[str, ...]] = {
    "candidates": ("Candidates received",),
    "cut": ("Candidates that a stage cut", "stage"),
    "page_rules_broken": ("Slots of pages that broke a rule, which could not be kept", "rule"),
    "explored": ("Requests whose page was drawn",),
    "unknown_items": ("Candidates that are neither in the bundle nor described",),
    "missing_columns": ("Requests that lack a column", "column"),
    "clipped_numbers": ("Numbers outside the range of training, which are clipped to it", "column"),
    "warnings": ("Warnings of answers", "kind"),
    "fallbacks": (
        "Answers in the order of an earlier stage: the stage that did not finish, and why",
        "stage",
        "why",
    ),
    "failed": ("Requests whose first stage failed",),
    "http_requests": (
        "Requests by the name of their token and the status of their answer",
        "token",
        "status",
    ),
    "shed": ("Requests refused with 503, since too many were waiting, or too large bodies in all",),
    "connections_cut": (
        "Connections closed for a limit: crowded, slow, large or invalid",
        "why",
    ),
    "access_log_dropped": ("Lines that the access log lost: too many were waiting, or the disk refused",),
    "user_lookups": (
        "Look-ups of users in the store: stored, new, late, failed, skipped (not tried), busy (too many)",
        "outcome",
    ),
    "log_written": ("Requests written to the log of served requests",),
    "log_rejected": ("Requests set aside by the log: no row of the log can hold them",),
    "log_dropped": ("Requests that the log lost: too many were waiting, or the disk refused",),
    "resynchronised": (
        "Times that a worker read all anew, since the store had lost changes that were served",
    ),
    RESTARTS: (
        "Workers started again: in place of one that died, or that was replaced when settings were read anew",
        "why",
    ),
}
"""Counters → help, then labels."""

HISTOGRAMS: dict[str, tuple[str, ...]] = {
    "request_seconds": ("Time from arrival to answer, in seconds",),
    "stage_seconds": ("Time of encoding a request (receive) and of each stage, in seconds", "stage"),
    "batch_requests": ("Requests that were ranked together: 1 if nobody waits, 16 at most",),
}
"""Histograms → help, then labels."""

SUMMARIES: dict[str, tuple[str, ...]] = {
    "answer_score": ("Mean score of an answer's items",),
}
"""Summaries → help, then labels."""

GAUGES: dict[str, tuple[str, ...]] = {
    "items_seq": ("Number of the last change of the items served",),
    "ready": ("1 if requests should be sent here, 0 once the service was told to end",),
    "source_up": ("1 if the last check of the source succeeded",),
    "source_untrusted": (
        "1 if no trusted key has signed what is live, so that the version before is served on",
    ),
    "behind_seconds": ("Seconds since what is served was known to equal the source",),
    "from_cache": (
        "1 if what is served was read from the cache, since what is live could not be read at the start",
    ),
    "users_away": ("1 if users are not looked up, since look-ups failed or were late",),
    "version": ("1; the label is the version that is served", "model_version"),
    "pinned": ("1 if `--version` says which version is served, 0 if it is the live one",),
    "build_info": ("1; the label is the version of corank", "version"),
}
"""Gauges → help, then labels."""
LEAST = ("items_seq", "ready", "source_up")
"""Gauges of which the least of the workers' values is exposed; of the others it is the most."""


def list_metrics() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """The metrics of a service: name as queries have it, type, help, labels."""
    kinds = {"counter": COUNTERS, "gauge": GAUGES, "histogram": HISTOGRAMS, "summary": SUMMARIES}
    for kind, families in kinds.items():
        for name, (text, *labels) in families.items():
            yield f"corank_{name}{'_total' * (kind == 'counter')}", kind, text, tuple(labels)


class Series:
    """The metrics of a process: by name, the series of some values of the labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry`: of the process."""
        self._families: dict[str, Any] = {}
        for name, (text, *labels) in COUNTERS.items():
            if name != RESTARTS:  # which the parent of the workers counts
                self._families[name] = Counter(f"corank_{name}", text, labels, registry=registry)
        for name, (text, *labels) in GAUGES.items():
            if name != "build_info":  # which core/version.py sets
                mode: Literal["livemin", "livemax"] = "livemin" if name in LEAST else "livemax"
                self._families[name] = Gauge(
                    f"corank_{name}", text, labels, multiprocess_mode=mode, registry=registry
                )
        for name, (text, *labels) in HISTOGRAMS.items():
            buckets = BATCHES if name == "batch_requests" else BUCKETS
            self._families[name] = Histogram(
                f"corank_{name}", text, labels, buckets=buckets, registry=registry
            )
        for name, (text, *labels) in SUMMARIES.items():
            self._families[name] = Summary(f"corank_{name}", text, labels, registry=registry)
        # cached, since finding a label takes as long as counting
        self.find = cache(self._find)

    def _find(self, name: str, *labels: object) -> Any:
        return self._families[name].labels(*labels) if labels else self._families[name]


class ServedVersions:
    """The figures of one process or of all, without versions that no worker serves any more.

    Series cannot be removed from the files that several processes share, so these are left out of what is exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry`: of this process, or of all."""
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Collect, as prometheus_client does of a registry."""
        for family in self._registry.collect():
            if family.name == "corank_version":
                family.samples = [sample for sample in family.samples if sample.value]
            yield family


class ServiceMetrics:
    """The metrics of one worker process."""

    def __init__(self, status: ServiceStatus, restarts: RestartCounts | None = None) -> None:
        """
        Args:
            status: of the process.
            restarts: of the workers of the service; None for a process without a parent.
        """
        self._status, self._restarts = status, restarts or RestartCounts()
        self._registry = registry = CollectorRegistry()
        self._find = Series(registry).find
        self._resynchronised, self._version = 0, ""
        self.update_gauges()

    def count(self, name: str, *labels: object, number: float = 1) -> None:
        """Count one of COUNTERS by the values of its labels."""
        self._find(name, *labels).inc(number)

    def observe_batch(self, requests: int) -> None:
        """Count requests that are ranked together."""
        self._find("batch_requests").observe(requests)

    def observe(self, one: Ranking) -> None:
        """Count a request that was answered."""
        self._find("request_seconds").observe(one.done - one.began)
        _, scores = one.answered
        if len(scores):
            self._find("answer_score").observe(sum(scores.tolist()) / len(scores))
        for name, part in one.seconds.items():
            self._find("stage_seconds", name).observe(part)
        self.count("candidates", number=len(one.candidates) + len(one.unknown))
        for cut in one.cuts:
            self.count("cut", cut.stage, number=len(cut.alive) - len(cut.kept))
        if one.page is not None:
            shown = len(one.page.page.slots)
            self.count("cut", one.page.settings.name, number=len(one.page.alive) - shown)
            for _, rule in one.page.page.broken:
                self.count("page_rules_broken", str(one.page.settings.rules[rule]))
        if one.drawn is not None:
            self.count("explored")
        if one.unknown:
            self.count("unknown_items", number=len(one.unknown))
        for column in one.missing:
            self.count("missing_columns", column)
        for column, clipped in one.clipped.items():
            self.count("clipped_numbers", column, number=clipped)
        for kind, _ in one.found:
            self.count("warnings", kind)
        if one.fallback:
            self.count("fallbacks", one.fallback["stage"], one.fallback["why"])

    def count_request(self, call: HttpCall, reply: HttpReply, began: float) -> None:
        """Count a request that is answered; as an `Observer`."""
        self.count("http_requests", call.caller, reply.status)
        if call.why is not None:
            self.count("shed")

    def count_logged(self, counts: Mapping[str, int]) -> None:
        """Count what became of requests in the log: `written`, `rejected`, `dropped`."""
        for name, requests in counts.items():
            self.count(f"log_{name}", number=requests)

    def expose(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        self.update_gauges()
        registry = self._registry
        if os.environ.get(MULTIPROC):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        exposed = CollectorRegistry()
        exposed.register(ServedVersions(registry))
        exposed.register(self)
        register_version(exposed)
        return generate_latest(exposed), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Collect, for prometheus_client, what is counted for all workers at once."""
        text, *labels = COUNTERS[RESTARTS]
        family = CounterMetricFamily(f"corank_{RESTARTS}", text, labels=labels)
        for why, count in self._restarts.read().items():
            family.add_metric([why], count)
        yield family

    def update_gauges(self) -> None:
        """Set gauges by the status: every second, whether requests come or not, since any worker may expose them."""
        status, manifest = self._status, self._status.follower.funnel.manifest
        if manifest.model_version != self._version:
            if self._version:
                self._find("version", self._version).set(0)
            self._version = manifest.model_version
            self._find("version", self._version).set(1)
        values = status.describe() | {"items_seq": manifest.items_seq, "users_away": status.users_away}
        for name, (_, *labels) in GAUGES.items():
            if name in values and not labels:
                self._find(name).set(values[name])
        resynchronised = status.follower.source.resynchronised
        self.count("resynchronised", number=resynchronised - self._resynchronised)
        self._resynchronised = resynchronised
