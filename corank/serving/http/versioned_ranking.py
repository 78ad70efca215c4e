"""A request ranked by the version that its user gets, and once more by the shadow.

The shadow ranks in idle time alone, on the thread of the event loop, one request at a time, when no request is
received, waits or is ranked. So a request that comes at the wrong moment waits for one ranking at most. What does not
fit into the queue is dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from corank.core.errors import RequestError
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
from corank.serving.funnel.request_encoder import QueryAhead
from corank.serving.http.body import check_quotas
from corank.serving.http.prometheus import VersionMetrics
from corank.serving.http.versions import Candidate, Rollout
from corank.serving.log.request_log import RoleLogs
from corank.serving.log.settings import CANARY, LIVE, SHADOW, Role


class RankedRequest(NamedTuple):
    """A result, and the version that it is of."""

    role: Role
    funnel: Funnel
    result: RankingResult


def rank_by_version(
    rollout: Rollout,
    metrics: VersionMetrics,
    live: Funnel,
    request: Request,
    arrived: float,
    ahead: QueryAhead | None = None,
) -> RankedRequest:
    """Rank by the live version, and for the canary's users by the canary. If that fails, the live version answers.

    Args:
        rollout: the versions other than the live one.
        metrics: counts what the canary cannot rank.
        live: the funnel of the live version.
        request: of a user, by whom it is assigned.
        arrived: when, by `time.perf_counter`.
        ahead: the query, if one of the funnels has encoded it already.

    Raises what the live version raises.
    """
    assigned, why = rollout.assign(request), "failed"
    if assigned is not None:
        canary, is_probe = assigned
        try:
            check_quotas(request, canary.manifest)
            result = canary.run(request, arrived)
        except RequestError:
            why = "refused"
        except Exception:
            pass  # a broken graph or a plug-in's stage may raise anything, and the live version answers
        else:
            rollout.record(is_probe, True)
            return RankedRequest(CANARY, canary, result)
    try:
        check_quotas(request, live.manifest)
        result = live.run(request, arrived, ahead)
    except Exception:
        if assigned is not None:
            rollout.record(is_probe, why == "refused")  # by both: not the canary is at fault
        raise
    if assigned is not None:
        rollout.record(is_probe, False)
        metrics.errors.labels(canary.manifest.model_version, CANARY, why).inc()
    return RankedRequest(LIVE, live, result)


QUEUE, QUEUE_BYTES = 64, 4 << 20
"""Requests that may wait for the shadow, and bytes of their bodies."""
IDLE_SECONDS, BUSY_SECONDS = 0.001, 0.005
"""Time without a request before the shadow ranks; time until it looks again while there are requests."""


class AnsweredRequest(NamedTuple):
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
            self._metrics.shadow.labels("dropped").inc()
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
            self._metrics.shadow.labels("dropped").inc()
            return
        # at the same moment, from which ages and days follow
        request = msgspec.structs.replace(one.request, time=one.answered.encoded.time, trace=False)
        began = time.perf_counter()
        try:
            result = funnel.run(request)
        except Exception:
            # a broken graph or a plug-in's stage may raise anything: nobody waits for it
            self._metrics.errors.labels(funnel.manifest.model_version, SHADOW, "failed").inc()
            self._metrics.shadow.labels("failed").inc()
            return
        self._metrics.observe(SHADOW, result, time.perf_counter() - began)
        self._metrics.observe_overlap(one.answered, result)
        self._metrics.shadow.labels("scored").inc()
        if self._log is not None:
            self._log.add(funnel, result, SHADOW, one.id)
