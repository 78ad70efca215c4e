"""POST /rank, /rank/ahead and /rank/batch: requests through the funnel of the live version, or of the canary.

A process ranks one request at a time, on the thread of its event loop: a request is about a millisecond of work for
one core. Between two requests the loop reads what arrived, so that waiting requests are counted; a request that would
wait too long is refused with 503 instead of queued. The `time` of a request is bounded around now, since what is
served is logged, and trained on at its time.
"""

import asyncio
import time
from datetime import timedelta
from typing import Any

import msgspec

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.core.errors import RequestError
from corank.core.time import MILLISECOND, now_ms
from corank.serving.funnel.funnel import Funnel
from corank.serving.funnel.request import Request
from corank.serving.funnel.request_encoder import QueryAhead
from corank.serving.http.asgi import HttpCall, HttpReply, RefusedError, shorten_error
from corank.serving.http.body import (
    JSON_CODEC,
    RETRY_AFTER,
    BodyReader,
    Codec,
    RequestBatch,
    answer_to,
    read_candidates,
    read_query,
)
from corank.serving.http.follower import Follower
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.serve_settings import Limits
from corank.serving.http.user_lookup import GIVEN, FoundUser, UserLookup, lookup_seconds
from corank.serving.http.versioned_ranking import ShadowQueue, rank_by_version
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
        f"time: {request.time!r} is more than {skew} from the service's clock, {now} ms; leave it out for now, or "
        "serve with a larger --max-clock-skew"
    )


REMEMBERED_BYTES = 2**16
"""Largest body whose request is kept to warm the next version, so that little memory is held."""


class RankEndpoints:
    """Ranks requests, one at a time, in the order in which they came whole."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        bodies: BodyReader,
        metrics: ServiceMetrics,
        users: UserLookup | None,
        request_log: RoleLogs | None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of the queue and of clocks.
            bodies: reads the worker's bodies.
            metrics: counts requests.
            users: looks columns of users up.
            request_log: where served requests are logged.
        """
        self._follower, self._limits, self._bodies, self._metrics = follower, limits, bodies, metrics
        self._users, self._request_log = users, request_log
        self.waiting = 0
        """Requests that wait or are ranked."""
        self._turn = asyncio.Lock()
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
        with await self._bodies.read(call) as body:
            arrived = time.perf_counter()
            self._shed_if_full()
            # before the request's turn, so that no other request waits for the store
            user = await self._find_user(body.whole, body.codec)
            self._shed_if_full()
            self.waiting += 1
            try:
                waits = self._turn.locked()
                async with self._turn:
                    if not waits:
                        # a request that waited is woken by the loop, which first reads new arrivals: let it read here
                        await asyncio.sleep(0)
                    request = body.decode(Request)
                    funnel, size = self._follower.funnel, len(body.content)
                    answer = self._rank(call, funnel, request, size, arrived, user)
                    return answer_to(call, answer)
            finally:
                self.waiting -= 1

    async def rank_ahead(self, call: HttpCall) -> HttpReply:
        """POST /rank/ahead: rank a request whose query comes first, and whose candidates follow.

        The user is looked up and the query encoded while the client finds candidates. Both come by one connection, to
        one worker, so that nothing is kept between requests.
        """
        async with self._bodies.read_lines(call) as (first, read_second):
            self._shed_if_full()
            user = await self._find_user(first, JSON_CODEC)
            async with self._turn:
                await asyncio.sleep(0)
                request = _join(read_query(first), user)
                check_clock(request, self._limits.clock_skew)
                ahead = self._follower.funnel.prepare(request)
            second = await read_second()
            arrived = time.perf_counter()
            self._shed_if_full()
            self.waiting += 1
            try:
                async with self._turn:
                    await asyncio.sleep(0)
                    request = msgspec.structs.replace(request, candidates=read_candidates(second))
                    funnel, size = self._follower.funnel, len(first) + len(second)
                    answer = self._rank(call, funnel, request, size, arrived, user, ahead)
                    return answer_to(call, answer)
            finally:
                self.waiting -= 1

    async def rank_batch(self, call: HttpCall) -> HttpReply:
        """POST /rank/batch: rank several requests, one after the other, by one version.

        Other requests have their turns between. What is wrong with one request is said in its place.
        """
        with await self._bodies.read(call) as body:
            parts, codec = body.decode(RequestBatch).requests, body.codec
            call.charge(len(parts) - 1)
            self._shed_if_full()
            users = await asyncio.gather(*(self._find_user(part, codec) for part in parts))
            self._shed_if_full()
            funnel, answers, waiting = self._follower.funnel, list[dict[str, Any]](), len(parts)
            self.waiting += waiting
            try:
                for part, user in zip(parts, users, strict=True):
                    async with self._turn:
                        await asyncio.sleep(0)
                        answers.append(self._rank_part(call, funnel, part, codec, user))
                    waiting -= 1
                    self.waiting -= 1
            finally:
                self.waiting -= waiting
            manifest = funnel.manifest
            answer = {
                "model_version": manifest.model_version,
                "items_seq": manifest.items_seq,
                "items_id": manifest.items_id,
                "answers": answers,
            }
            return answer_to(call, answer)

    async def _find_user(self, body: bytes | msgspec.Raw, codec: Codec) -> FoundUser:
        """The user of a request, looked up if the service looks users up."""
        if self._users is None:
            return GIVEN
        user = await self._users.find(body, codec, lookup_seconds(self._follower.funnel.manifest))
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

    def _rank_part(
        self, call: HttpCall, funnel: Funnel, part: msgspec.Raw, codec: Codec, user: FoundUser
    ) -> dict[str, Any]:
        """The answer to a request of a batch, or its error. Its deadlines count from its own turn."""
        try:
            request = codec.decode(part, Request)
            return self._rank(call, funnel, request, len(bytes(part)), time.perf_counter(), user)
        except RequestError as error:
            return {"error": shorten_error(str(error)), "status": 400}
        except RefusedError as refused:
            return {"error": shorten_error(refused.error), "status": refused.status}

    def _rank(
        self,
        call: HttpCall,
        funnel: Funnel,
        request: Request,
        size: int,
        arrived: float,
        user: FoundUser,
        ahead: QueryAhead | None = None,
    ) -> dict[str, Any]:
        """The answer to a request whose body has `size` bytes, and whose query may have been encoded `ahead`."""
        check_clock(request, self._limits.clock_skew)
        request = _join(request, user)
        try:
            rollout, metrics = self._follower.rollout, self._metrics.versions
            ranked = rank_by_version(rollout, metrics, funnel, request, arrived, ahead)
        except RUNTIME_ERRORS as error:
            self._metrics.count("failed")
            raise RefusedError(500, f"the first stage cannot be computed: {error}") from None
        result = ranked.result
        if size <= REMEMBERED_BYTES:
            self._follower.recent.append(request)
        if result.encoded.unknown:
            self._follower.request_refresh()  # the store may know them by now
        answer = result.to_answer(user.origin)
        done = time.perf_counter()
        call.ranked.append((result, done, ranked.role))
        self._metrics.observe(result, done - arrived, ranked.role)
        served_id = None
        if self._request_log is not None:
            served_id = self._request_log.add(ranked.funnel, result, ranked.role)
        if self.shadow is not None:
            self.shadow.offer(request, result, served_id, size)
        named: dict[str, Any] = {"role": ranked.role} | (
            {} if served_id is None else {"served_id": served_id}
        )
        wanted = request.fields
        return answer | {name: value for name, value in named.items() if wanted is None or name in wanted}


def _join(request: Request, user: FoundUser) -> Request:
    """A request with what was found of its user."""
    if not user.columns:
        return request
    return msgspec.structs.replace(request, user=request.user | user.columns)
