"""A request ranked by the version that its user gets.

Metrics by version: role, requests, errors, latency, mean score; and how near the shadow is to what was answered.

The shadow: requests that were answered are ranked once more by another version, in idle time alone.

It ranks on the thread of the event loop, one request at a time, when no request is received, waits or is ranked. So a
request that comes at the wrong moment waits for one ranking at most. What does not fit into the queue is dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, Summary

from corank.core.errors import RequestError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.query_encoder import QueryAhead
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
from corank.serving.http.body import check_quotas
from corank.serving.http.versions import CanaryAssignment, Candidate, Rollout
from corank.serving.log.request_log import RoleLogs
from corank.serving.log.settings import CANARY, LIVE, SHADOW, Role

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


@dataclass(frozen=True)
class RankedRequest:
    """A result, and the version that it is of."""

    role: Role
    funnel: Funnel
    result: RankingResult


class VersionedRanking:
    """Ranks by the live version, and for the canary's users by the canary. If that fails, the live version answers."""

    def __init__(self, rollout: Rollout, metrics: VersionMetrics) -> None:
        """
        Args:
            rollout: holds the versions other than the live one.
            metrics: counts what the canary cannot rank.
        """
        self._rollout, self._metrics = rollout, metrics

    def rank(
        self, request: Request, arrived: float, live: Funnel, ahead: QueryAhead | None = None
    ) -> RankedRequest:
        """Rank a request.

        Args:
            request: of a user, by whom it is assigned.
            arrived: when, by `time.perf_counter`.
            live: the funnel of the live version.
            ahead: the query, if one of the funnels has encoded it already.

        Raises what the live version raises.
        """
        assigned, why = self._rollout.assign(request), ""
        if assigned is not None:
            ranked, why = self._try_canary(assigned, request, arrived)
            if ranked is not None:
                return ranked
        try:
            check_quotas(request, live.manifest)
            result = live.run(request, arrived, ahead)
        except Exception:
            if assigned is not None and why == "refused":
                self._rollout.record(assigned, True)  # not the canary is at fault
            raise
        if assigned is not None:
            self._metrics.count_error(CANARY, assigned.funnel.manifest.model_version, why)
            if why == "refused":
                self._rollout.record(assigned, False)
        return RankedRequest(LIVE, live, result)

    def _try_canary(
        self, assigned: CanaryAssignment, request: Request, arrived: float
    ) -> tuple[RankedRequest | None, str]:
        """Rank by the canary; if it cannot, None, and whether it `refused` the request or `failed`."""
        try:
            check_quotas(request, assigned.funnel.manifest)
            result = assigned.funnel.run(request, arrived)
        except RequestError:
            return None, "refused"
        except Exception:
            # a broken graph or a plug-in's stage may raise anything, and the live version answers
            self._rollout.record(assigned, False)
            return None, "failed"
        self._rollout.record(assigned, True)
        return RankedRequest(CANARY, assigned.funnel, result), ""


QUEUE, QUEUE_BYTES = 64, 4 << 20
"""Requests that may wait for the shadow, and bytes of their bodies."""
IDLE_SECONDS, BUSY_SECONDS = 0.001, 0.005
"""Time without a request before the shadow ranks; time until it looks again while there are requests."""


@dataclass(frozen=True)
class AnsweredRequest:
    """A request that waits for the shadow."""

    request: Request
    answered: RankingResult
    id: str | None
    """Of the request in the log."""
    size: int
    """Bytes of its body."""


class ShadowQueue:
    """Ranks answered requests by the shadow."""

    def __init__(
        self,
        shadow: Candidate,
        is_idle: Callable[[], bool],
        metrics: VersionMetrics,
        log: RoleLogs | None,
    ) -> None:
        """
        Args:
            shadow: the version.
            is_idle: whether nobody sends a request or waits for an answer.
            metrics: counts.
            log: where requests are logged; those that it has of the answer are ranked and logged by the shadow.
        """
        self._shadow, self._is_idle, self._metrics, self._log = shadow, is_idle, metrics, log
        self._queue: deque[AnsweredRequest] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def offer(self, request: Request, answered: RankingResult, id_: str | None, size: int) -> None:
        """Keep an answered request for later, or drop it. One that the log does not have is not ranked again."""
        if self._log is not None and id_ is None:
            return
        if len(self._queue) >= QUEUE or self._bytes + size > QUEUE_BYTES or self._shadow.funnel is None:
            self._metrics.count_shadow("dropped")
            return
        self._queue.append(AnsweredRequest(request, answered, id_, size))
        self._bytes += size
        self._filled.set()

    async def run(self) -> None:
        """Rank what waits whenever the process is idle, until cancelled."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(IDLE_SECONDS if self._is_idle() else BUSY_SECONDS)
            if not self._is_idle():
                continue
            one = self._queue.popleft()
            self._bytes -= one.size
            self._rank(one)
            if not self._queue:
                self._filled.clear()

    def _rank(self, one: AnsweredRequest) -> None:
        funnel = self._shadow.funnel
        if funnel is None:
            self._metrics.count_shadow("dropped")
            return
        # at the same moment, from which ages and days follow
        request = msgspec.structs.replace(one.request, time=one.answered.encoded.time, trace=False)
        began = time.perf_counter()
        try:
            result = funnel.run(request)
        except Exception:
            # a broken graph or a plug-in's stage may raise anything: nobody waits for it
            self._metrics.count_error(SHADOW, funnel.manifest.model_version, "failed")
            self._metrics.count_shadow("failed")
            return
        self._metrics.observe(SHADOW, result, time.perf_counter() - began)
        self._metrics.observe_overlap(one.answered, result)
        self._metrics.count_shadow("scored")
        if self._log is not None:
            self._log.add(funnel, result, SHADOW, one.id)
