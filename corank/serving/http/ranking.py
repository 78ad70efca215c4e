"""POST /rank, /rank/ahead and /rank/batch: requests through the funnel of the live version, or of the canary.

A process ranks on the thread of its event loop, all requests that wait as one batch (rank_queue.py). Between two
batches the loop reads what arrived, so that waiting requests are counted; a request that would wait too long is
refused with 503 instead of queued. The `time` of a request is bounded around now, since what is served is logged, and
trained on at its time.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

import msgspec

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.core.errors import RequestError
from corank.core.panics import panics_as_errors
from corank.core.time import MILLISECOND, now_ms
from corank.serving.funnel.funnel import AT_ONCE, BatchRequest, Funnel
from corank.serving.funnel.request import Request
from corank.serving.funnel.request_encoder import QueryAhead
from corank.serving.http.asgi import HttpCall, HttpReply, RefusedError, shorten_error
from corank.serving.http.body import (
    RETRY_AFTER,
    BodyReader,
    Codec,
    RequestBatch,
    answer_to,
    read_candidates,
    read_query,
)
from corank.serving.http.connections import ConnectionPool
from corank.serving.http.follower import Follower
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.rank_queue import RankQueue
from corank.serving.http.serve_settings import Limits
from corank.serving.http.user_lookup import GIVEN, FoundUser, UserLookup, lookup_seconds
from corank.serving.http.versioned_ranking import RankedRequest, ShadowQueue, rank_by_version
from corank.serving.log.request_log import RoleLogs

UNITS = {"seconds": 1_000.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
"""Units that clients send in place of milliseconds → milliseconds."""


def check_clock(request: Request, skew: timedelta | None) -> None:
    """Raise RequestError for a request whose time is further from now than `skew`; None allows any time."""
    if request.time is None or skew is None:
        return
    time, now, limit = request.time_ms, now_ms(), skew // MILLISECOND
    if abs(time - now) <= limit:
        return
    for unit, milliseconds in UNITS.items():
        if abs(time * milliseconds - now) <= limit:
            raise RequestError(
                f"time: {time} is in {unit}, it seems; write milliseconds since 1970 UTC, or ISO 8601"
            )
    raise RequestError(
        f"time: {request.time!r} is more than {skew} from the service's clock, {now} ms; leave it out for now, as "
        "`corank request --now` does, or serve with a larger --max-clock-skew"
    )


REMEMBERED_BYTES, REMEMBERED_EVERY = 2**16, 8
"""Largest body whose request is kept to warm the next version, so that little memory is held; and of how many requests
one is: the memory of the others is used again while the processor's caches have it."""

MOST_CANDIDATES = 16_000
"""Of requests that are ranked together: beyond them the first would wait long for the last."""


class Waiting(NamedTuple):
    """A request that waits to be ranked."""

    call: HttpCall
    request: Request
    size: int
    """Bytes of its body."""
    user: FoundUser
    arrived: float | None
    """When it was here whole, by `time.perf_counter`; None if its time counts from its turn."""
    ahead: QueryAhead | None = None
    """Its query, which was encoded before its candidates came."""
    funnel: Funnel | None = None
    """Of the version that must rank it; None for the one that is live when its turn comes."""


class RankEndpoints:
    """Ranks requests, those that wait together, in the order in which they came whole."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        pool: ConnectionPool,
        bodies: BodyReader,
        metrics: ServiceMetrics,
        users: UserLookup | None,
        request_log: RoleLogs | None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of the queue and of clocks.
            pool: the connections by which requests come.
            bodies: reads the worker's bodies.
            metrics: counts requests.
            users: looks columns of users up.
            request_log: where served requests are logged.
        """
        self._follower, self._limits, self._bodies, self._metrics = follower, limits, bodies, metrics
        self._pool, self._users, self._request_log = pool, users, request_log
        self.waiting = 0
        """Requests that wait or are ranked."""
        self._queue = RankQueue(self._rank, AT_ONCE, MOST_CANDIDATES)
        self._answered = count()
        shadow = follower.rollout.shadow
        self.shadow = (
            ShadowQueue(shadow, lambda: bodies.is_idle, metrics.versions, request_log)
            if shadow is not None
            else None
        )
        """None without a shadow."""

    async def rank(self, call: HttpCall) -> HttpReply:
        """POST /rank: rank the candidates of a request."""
        # read before the request counts as waiting, so that a slow sender keeps nobody else out
        codec, body = await self._bodies.read(call)
        arrived = time.perf_counter()
        self._shed_if_full()
        request = codec.decode_whole(body, Request)
        # before the request's turn, so that no other request waits for the store
        user = await self._find_user(request)
        self._shed_if_full()
        with self._counting(1):
            one = Waiting(call, request, len(body), user, arrived)
            return answer_to(call, await self._run(one, self._pool.active == 1))

    async def rank_ahead(self, call: HttpCall) -> HttpReply:
        """POST /rank/ahead: rank a request whose query comes first, and whose candidates follow.

        The user is looked up and the query encoded while the client finds candidates. Both come by one connection, to
        one worker, so that nothing is kept between requests.
        """
        first = await self._bodies.read_line(call)
        self._shed_if_full()
        request = read_query(first)
        user = await self._find_user(request)
        check_clock(request, self._limits.clock_skew)
        ahead = self._follower.funnel.prepare(_join(request, user))
        second = await self._bodies.read_rest(call)
        arrived = time.perf_counter()
        self._shed_if_full()
        request = msgspec.structs.replace(request, candidates=read_candidates(second))
        with self._counting(1):
            one = Waiting(call, request, len(first) + len(second), user, arrived, ahead)
            return answer_to(call, await self._run(one, self._pool.active == 1))

    async def rank_batch(self, call: HttpCall) -> HttpReply:
        """POST /rank/batch: rank several requests by one live version; those of a canary's users by the canary.

        As many as fit into one batch of the service at once; other requests have their turns between. What is wrong
        with one request is said in its place.
        """
        codec, body = await self._bodies.read(call)
        parts = codec.decode_whole(body, RequestBatch).requests
        call.charge(len(parts) - 1)
        self._shed_if_full()
        funnel, answers = self._follower.funnel, list[dict[str, Any]]()
        with self._counting(len(parts)):
            for first in range(0, len(parts), AT_ONCE):
                some = parts[first : first + AT_ONCE]
                ranked = (self._rank_part(call, funnel, part, codec) for part in some)
                answers += await asyncio.gather(*ranked)
        manifest = funnel.manifest
        answer = {
            "model_version": manifest.model_version,
            "items_seq": manifest.items_seq,
            "items_id": manifest.items_id,
            "answers": answers,
        }
        return answer_to(call, answer)

    async def _rank_part(
        self, call: HttpCall, funnel: Funnel, part: msgspec.Raw, codec: Codec
    ) -> dict[str, Any]:
        """The answer to a request of a batch, or its error. Its deadlines count from its own turn."""
        try:
            request = codec.decode(part, Request)
            user = await self._find_user(request)
            one = Waiting(call, request, len(bytes(part)), user, arrived=None, funnel=funnel)
            return await self._run(one)
        except RequestError as error:
            return {"error": shorten_error(str(error)), "status": 400}
        except RefusedError as refused:
            return {"error": shorten_error(refused.error), "status": refused.status}

    @contextmanager
    def _counting(self, requests: int) -> Iterator[None]:
        """Count requests as waiting within a block."""
        self.waiting += requests
        try:
            yield
        finally:
            self.waiting -= requests

    async def _find_user(self, request: Request) -> FoundUser:
        """The user of a request, looked up if the service looks users up."""
        if self._users is None:
            return GIVEN
        user = await self._users.find(request.user, lookup_seconds(self._follower.funnel.manifest))
        if user is not GIVEN:
            self._metrics.count("user_lookups", user.outcome)
        return user

    def _shed_if_full(self) -> None:
        """Raise RefusedError if as many requests are waiting as may."""
        if self.waiting >= self._limits.queue:
            self._metrics.count("shed")
            raise RefusedError(
                503, f"{self.waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}, "queue"
            )

    async def _run(self, one: Waiting, alone: bool = False) -> dict[str, Any]:
        """The answer to a request, when its turn has come; at once if it is alone."""
        check_clock(one.request, self._limits.clock_skew)
        return await self._queue.run(one, self._follower.funnel.count_candidates(one.request), alone)

    def _rank(self, batch: Sequence[Waiting]) -> list[dict[str, Any] | Exception]:
        """The answers to a batch of requests."""
        began, outcomes = time.perf_counter(), list[dict[str, Any] | Exception]()
        self._metrics.batch_requests.observe(len(batch))
        arrived = [began if one.arrived is None else one.arrived for one in batch]
        joined = [_join(one.request, one.user) for one in batch]
        requests = [
            BatchRequest(request, moment, one.ahead)
            for request, moment, one in zip(joined, arrived, batch, strict=True)
        ]
        funnels = [one.funnel or self._follower.funnel for one in batch]
        ranked = rank_by_version(self._follower.rollout, self._metrics.versions, funnels, requests)
        for one, request, moment, outcome in zip(batch, joined, arrived, ranked, strict=True):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                with panics_as_errors():
                    outcomes.append(self._answer(one, request, moment, outcome))
            except RUNTIME_ERRORS as error:
                self._metrics.count("failed")
                outcomes.append(RefusedError(500, f"the first stage cannot be computed: {error}"))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _answer(
        self, one: Waiting, request: Request, arrived: float, ranked: RankedRequest
    ) -> dict[str, Any]:
        """The answer to a request that was ranked, which is logged and counted."""
        result = ranked.result
        if next(self._answered) % REMEMBERED_EVERY == 0 and one.size <= REMEMBERED_BYTES:
            self._follower.recent.append(request)
        if result.encoded.unknown:
            self._follower.request_refresh()  # the store may know them by now
        answer = result.to_answer(one.user.origin)
        done = time.perf_counter()
        one.call.ranked.append((result, done, ranked.role))
        self._metrics.observe(result, done - arrived, ranked.role)
        served_id = None
        if self._request_log is not None:
            served_id = self._request_log.add(ranked.funnel, result, ranked.role)
        if self.shadow is not None:
            self.shadow.offer(request, result, served_id, one.size)
        fields = request.fields
        if fields is None or "role" in fields:
            answer["role"] = ranked.role
        if served_id is not None and (fields is None or "served_id" in fields):
            answer["served_id"] = served_id
        return answer


def _join(request: Request, user: FoundUser) -> Request:
    """A request with what was found of its user."""
    if not user.columns:
        return request
    return msgspec.structs.replace(request, user=request.user | user.columns)
