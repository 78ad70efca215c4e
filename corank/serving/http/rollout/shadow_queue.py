"""The shadow: requests that were answered are ranked once more by another version, in idle time alone.

It ranks on the thread of the event loop, one request at a time, when no request is received, waits or is ranked. So a
request that comes at the wrong moment waits for one ranking at most. What does not fit into the queue is dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
from corank.serving.http.rollout.candidate import Candidate
from corank.serving.http.rollout.version_metrics import VersionMetrics
from corank.serving.log.role_logs import RoleLogs
from corank.serving.role import SHADOW

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
