"""POST /rank: a request through the live funnel.

A process ranks one request at a time, on the thread of its event loop: a request is about a millisecond of work for
one core. Between two requests the loop reads what arrived, so that waiting requests are counted; a request that would
wait too long is refused with 503 instead of queued.
"""

import asyncio
import time

import msgspec

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import GIVEN, FoundUser, UserLookup, lookup_seconds
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.request_clock import check_clock
from corank.serving.http.serve_settings import Limits
from corank.serving.http.transport.body import RETRY_AFTER, BodyReader
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import HttpReply, RefusedError, json_reply
from corank.serving.http.transport.schemas import check_quotas, decode_request
from corank.serving.log.request_log import RequestLog

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
        request_log: RequestLog | None,
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

    async def rank(self, call: HttpCall) -> HttpReply:
        """POST /rank: rank the candidates of a request."""
        # read before the request counts as waiting, so that a slow sender keeps nobody else out
        async with self._bodies.read(call) as body:
            arrived = time.perf_counter()
            self._shed_if_full()
            user = GIVEN
            if self._users is not None:
                # before the request's turn, so that no other request waits for the store
                user = await self._users.find(body, lookup_seconds(self._follower.funnel.manifest))
                self._metrics.count_lookup(user.outcome)
                self._shed_if_full()
            self.waiting += 1
            try:
                waits = self._turn.locked()
                async with self._turn:
                    if not waits:
                        # a request that waited is woken by the loop, which first reads new arrivals: let it read here
                        await asyncio.sleep(0)
                    return self._rank(body, arrived, user)
            finally:
                self.waiting -= 1

    def _shed_if_full(self) -> None:
        """Raise RefusedError if as many requests are waiting as may."""
        if self.waiting >= self._limits.queue:
            self._metrics.count_shed()
            raise RefusedError(
                503, f"{self.waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}
            )

    def _rank(self, body: bytes, arrived: float, user: FoundUser) -> HttpReply:
        funnel, request = self._follower.funnel, decode_request(body)
        if self._limits.clock_skew is not None:
            check_clock(request, self._limits.clock_skew)
        if user.columns:
            request = msgspec.structs.replace(request, user=request.user | user.columns)
        check_quotas(request, funnel.manifest)
        try:
            result = funnel.run(request, arrived)
        except RUNTIME_ERRORS as error:
            self._metrics.count_failed()
            raise RefusedError(500, f"the first stage cannot be computed: {error}") from None
        if len(body) <= REMEMBERED_BYTES:
            self._follower.recent.append(request)
        if result.encoded.unknown:
            self._follower.request_refresh()  # the store may know them by now
        answer = result.to_answer() | {"user": user.origin}
        if request.trace:
            answer["microseconds"] = {name: round(s * 1e6) for name, s in result.seconds.items()}
        self._metrics.observe(result, time.perf_counter() - arrived)
        if self._request_log is not None:
            self._request_log.add(funnel, result)
        return json_reply(answer)
