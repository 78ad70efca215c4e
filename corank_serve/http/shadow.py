"""Answered requests, ranked once more by the shadow.

It ranks in idle time alone, on the thread of the event loop, one request at a time, when no request is
received, waits or is ranked. So a request that comes at the wrong moment waits for one ranking at most. What does not
fit into the queue is dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec

from corank.funnel.ranking import SHADOW, Ranking
from corank_serve.http.prometheus import VersionMetrics
from corank_serve.http.versions import Candidate
from corank_serve.log.request_log import RequestLog

QUEUE, QUEUE_BYTES = 64, 4 << 20
"""Requests that may wait for the shadow, and bytes of their bodies."""
IDLE_SECONDS, BUSY_SECONDS = 0.001, 0.005
"""Time without a request before the shadow ranks; time until it looks again while there are requests."""


class ShadowQueue:
    """Ranks answered requests by the shadow."""

    def __init__(
        self,
        shadow: Candidate,
        is_idle: Callable[[], bool],
        metrics: VersionMetrics,
        log: RequestLog | None,
    ) -> None:
        """
        Args:
            shadow: the version.
            is_idle: whether nobody sends a request or waits for an answer.
            metrics: counts.
            log: of the shadow, where requests are logged whose answer is: the others are not ranked.
        """
        self._shadow, self._is_idle, self._metrics, self._log = shadow, is_idle, metrics, log
        self._queue: deque[Ranking] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def offer(self, one: Ranking) -> None:
        """Keep an answered request for later, or drop it. One that the log does not have is not ranked again."""
        if self._log is not None and one.served_id is None:
            return
        if len(self._queue) >= QUEUE or self._bytes + one.size > QUEUE_BYTES or self._shadow.funnel is None:
            self._metrics.count_shadow("dropped")
            return
        self._queue.append(one)
        self._bytes += one.size
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

    def _rank(self, one: Ranking) -> None:
        funnel = self._shadow.funnel
        if funnel is None:
            self._metrics.count_shadow("dropped")
            return
        # at the same moment, from which ages and days follow
        request = msgspec.structs.replace(one.request, time=one.time, trace=False)
        try:
            ours = funnel.run(request)
        except Exception:
            # a broken graph or a plug-in's stage may raise anything: nobody waits for it
            self._metrics.count_error(funnel.manifest.model_version, SHADOW, "failed")
            self._metrics.count_shadow("failed")
            return
        ours.role, ours.served_id, ours.done = SHADOW, one.served_id, time.perf_counter()
        self._metrics.observe(ours)
        if one.drawn is None:  # else chance, not the version, chose what it answered
            self._metrics.observe_overlap(one, ours)
        self._metrics.count_shadow("scored")
        if self._log is not None:
            self._log.add(funnel, ours)
