"""Metrics by version: role, requests, errors, latency, mean score; and how near the shadow is to what was answered."""

import time
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary

from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.http.rollout.rollout import Rollout
from corank.serving.role import LIVE, Role

LABELS = ("model_version", "role")
BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper bounds of the latency histograms, seconds."""
VERSION = "corank_version"
KEEP_SECONDS = 600.0
"""Time for which the series of a version stay once it is no longer served: whoever reads them reads the last counts."""
GONE = -1.0
"""Of the gauge of a version whose series are no longer exposed."""


class VersionMetrics:
    """Figures of the live version, the canary and the shadow of one worker process."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        """`registry`: of the process."""
        self._clock = clock
        self._version = Gauge(
            VERSION,
            "1 for a version that is served, 0 for one that was until lately",
            LABELS,
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._seconds = Histogram(
            "corank_request_seconds",
            "Time from arrival to answer, in seconds; of the shadow, of its ranking alone",
            LABELS,
            buckets=BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "corank_version_errors",
            "Requests that a version could not rank: failed, or refused what the live version takes. A canary's are "
            "answered by the live version",
            [*LABELS, "why"],
            registry=registry,
        )
        self._score = Summary(
            "corank_answer_score",
            "Mean score of an answer's items",
            LABELS,
            registry=registry,
        )
        self._shadow = Counter(
            "corank_shadow_requests",
            "Requests offered to the shadow: scored, failed, or dropped, since nobody was idle",
            ["outcome"],
            registry=registry,
        )
        self._overlap = Summary(
            "corank_shadow_overlap",
            "Share of an answer's items that the shadow's answer has, too",
            registry=registry,
        )
        # cached, since finding a label takes as long as counting
        self._seconds_of, self._score_of = cache(self._seconds.labels), cache(self._score.labels)
        self._served: dict[Role, str] = {}
        self._ended: dict[tuple[str, Role], float] = {}
        """When versions ended whose series are still exposed."""

    def observe(self, role: Role, result: RankingResult, seconds: float) -> None:
        """Count a request that a version ranked."""
        version = result.manifest.model_version
        self._seconds_of(version, role).observe(seconds)
        _, scores = result.answered
        if len(scores):
            self._score_of(version, role).observe(float(np.add.reduce(scores)) / len(scores))

    def count_error(self, role: Role, model_version: str, why: str) -> None:
        """Count a request that a version could not rank: `failed` or `refused`."""
        self._errors.labels(model_version, role, why).inc()

    def count_shadow(self, outcome: str) -> None:
        """Count what became of a request that was offered to the shadow: `scored`, `failed` or `dropped`."""
        self._shadow.labels(outcome).inc()

    def observe_overlap(self, answered: RankingResult, shadow: RankingResult) -> None:
        """Compare the shadow's answer with the one that was given."""
        theirs, ours = ({*map(one.encoded.ids.__getitem__, one.answered[0])} for one in (answered, shadow))
        if theirs:
            self._overlap.observe(len(theirs & ours) / len(theirs))

    def update_versions(self, live: str, rollout: Rollout) -> None:
        """Set which versions are served now, and which were for the last time long ago."""
        served = {one.role: one.funnel.manifest.model_version for one in rollout.candidates if one.funnel}
        served[LIVE] = live
        for role in self._served.keys() | served.keys():
            before, now = self._served.get(role), served.get(role)
            if before != now:
                if before is not None:
                    self._version.labels(before, role).set(0)
                    self._ended[before, role] = self._clock()
                if now is not None:
                    self._version.labels(now, role).set(1)
                    self._ended.pop((now, role), None)
        self._served = served
        late = self._clock() - KEEP_SECONDS
        for version, role in [one for one, ended in self._ended.items() if ended <= late]:
            del self._ended[version, role]
            self._version.labels(version, role).set(GONE)


class HeldSeries:
    """The figures of one process or of all, without those of versions that no worker holds any more.

    Series cannot be removed from the files that several processes share, so they are left out of what is exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry`: of this process, or of all."""
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Collect, as prometheus_client does of a registry."""
        families = list(self._registry.collect())
        gauges = [sample for family in families if family.name == VERSION for sample in family.samples]
        versions = {tuple(sample.labels[name] for name in LABELS) for sample in gauges if sample.value > GONE}
        for family in families:
            family.samples = [
                sample
                for sample in family.samples
                if LABELS[0] not in sample.labels or tuple(sample.labels[name] for name in LABELS) in versions
            ]
            yield family
