"""Requests ranked by the version that their users get, and once more by the shadow.

The shadow ranks in idle time alone, on the thread of the event loop, one request at a time, when no request is
received, waits or is ranked. So a request that comes at the wrong moment waits for one ranking at most. What does not
fit into the queue is dropped.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from corank.core.errors import RequestError
from corank.serving.funnel.funnel import BatchRequest, Funnel
from corank.serving.funnel.ranking_result import RankingResult
from corank.serving.funnel.request import Request
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
    rollout: Rollout, metrics: VersionMetrics, live: Sequence[Funnel], batch: Sequence[BatchRequest]
) -> list[RankedRequest | Exception]:
    """Rank requests by the live version, and those of the canary's users by the canary. If it fails, the live one does.

    Args:
        rollout: the versions other than the live one.
        metrics: counts what the canary cannot rank.
        live: the funnel of the live version for each request.
        batch: requests of users, by whom they are assigned.

    Returns for each what ranked it, or what the live version raises.
    """
    assigned = [rollout.assign(one.request) for one in batch]
    if not any(assigned):
        return list(map(_of_live, live, _run_checked(live, batch)))
    ranked = _run_checked([None if one is None else one[0] for one in assigned], batch)
    outcomes = _run_checked(
        [
            None if isinstance(result, RankingResult) else funnel
            for funnel, result in zip(live, ranked, strict=True)
        ],
        batch,
    )
    results: list[RankedRequest | Exception] = []
    for one, by_canary, funnel, by_live in zip(assigned, ranked, live, outcomes, strict=True):
        if one is not None:
            canary, is_probe = one
            refused = isinstance(by_canary, RequestError)
            # refused by both: not the canary is at fault
            good = by_live is None or (isinstance(by_live, Exception) and refused)
            rollout.record(is_probe, good)
            if isinstance(by_canary, RankingResult):
                results.append(RankedRequest(CANARY, canary, by_canary))
                continue
            if not isinstance(by_live, Exception):
                why = "refused" if refused else "failed"
                metrics.errors.labels(canary.manifest.model_version, CANARY, why).inc()
        results.append(_of_live(funnel, by_live))
    return results


def _of_live(funnel: Funnel, outcome: RankingResult | Exception | None) -> RankedRequest | Exception:
    assert outcome is not None
    return outcome if isinstance(outcome, Exception) else RankedRequest(LIVE, funnel, outcome)


def _run_checked(
    funnels: Sequence[Funnel | None], batch: Sequence[BatchRequest]
) -> list[RankingResult | Exception | None]:
    """Run each request by its funnel, those of one funnel at once: results and errors; None without a funnel."""
    outcomes: list[RankingResult | Exception | None] = [None] * len(batch)
    together: dict[int, list[int]] = {}
    for n, (funnel, one) in enumerate(zip(funnels, batch, strict=True)):
        if funnel is not None:
            try:
                check_quotas(one.request, funnel.manifest)
                together.setdefault(id(funnel), []).append(n)
            except RequestError as error:
                outcomes[n] = error
    for numbers in together.values():
        funnel = funnels[numbers[0]]
        assert funnel is not None
        some: Sequence[RankingResult | Exception]
        try:
            some = funnel.run_many([batch[n] for n in numbers])
        except Exception as error:  # a broken graph or a plug-in's stage may raise anything
            some = [error] * len(numbers)
        for n, outcome in zip(numbers, some, strict=True):
            outcomes[n] = outcome
    return outcomes


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
