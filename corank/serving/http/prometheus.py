"""The figures of the service, for Prometheus: how long stages take, what is cut, missed, sent away, and which version.

Workers write to one folder, PROMETHEUS_MULTIPROC_DIR, and any of them tells of all.
"""

import os
from functools import cache
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.http.follower import Follower

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class ServiceMetrics:
    """One worker's part of the figures."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._registry = registry = CollectorRegistry()
        self._whole = Histogram(
            "corank_request_seconds", "From arrival to answer", buckets=BUCKETS, registry=registry
        )
        self._stage = Histogram(
            "corank_stage_seconds",
            "Of receive, and of each stage",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._candidates = Counter("corank_candidates", "Candidates that came", registry=registry)
        self._cut = Counter("corank_cut", "Candidates that a stage cut", ["stage"], registry=registry)
        self._unknown = Counter("corank_unknown_items", "Neither known nor described", registry=registry)
        self._missing = Counter("corank_missing_columns", "Columns not sent", ["column"], registry=registry)
        self._fallback = Counter(
            "corank_fallbacks", "Answers in an earlier stage's order", ["stage", "why"], registry=registry
        )
        self._shed = Counter("corank_shed", "Requests sent away with 503", registry=registry)
        self._failed = Counter("corank_failed", "Requests whose first stage failed", registry=registry)
        self._version = Gauge(
            "corank_version",
            "1 for the live version",
            ["model_version"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._seq = Gauge(
            "corank_items_seq", "Of the items served", multiprocess_mode="livemin", registry=registry
        )
        self._ready = Gauge(
            "corank_ready",
            "0 where the source cannot be asked",
            multiprocess_mode="livemin",
            registry=registry,
        )
        # looked up once: a label costs as much as what it counts
        self._of_stage, self._cut_by = cache(self._stage.labels), cache(self._cut.labels)
        self._told: tuple[Any, ...] = ()

    def ranked(self, ranked: RankingResult, seconds: float) -> None:
        self._whole.observe(seconds)
        for name, took in ranked.seconds.items():
            self._of_stage(name).observe(took)
        self._candidates.inc(len(ranked.received.ids) + len(ranked.received.unknown))
        for cut in ranked.cuts:
            self._cut_by(cut.stage).inc(len(cut.alive) - len(cut.kept))
        if ranked.received.unknown:
            self._unknown.inc(len(ranked.received.unknown))
        for column in ranked.received.missing:
            self._missing.labels(column).inc()
        if ranked.fallback:
            self._fallback.labels(ranked.fallback["stage"], ranked.fallback["why"]).inc()
        self._tell()

    def shed(self) -> None:
        self._shed.inc()

    def failed(self) -> None:
        self._failed.inc()

    def _tell(self) -> None:
        manifest, trouble = self._follower.funnel.manifest, self._follower.trouble
        news = (manifest.model_version, manifest.items_seq, trouble)
        if news == self._told:
            return
        if self._told and self._told[0] != manifest.model_version:
            self._version.labels(self._told[0]).set(0)
        self._version.labels(manifest.model_version).set(1)
        self._seq.set(manifest.items_seq)
        self._ready.set(trouble is None)
        self._told = news

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        self._tell()
        if not os.environ.get(MULTIPROC):
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
