"""POST /rank, /rank/ahead and /rank/batch: requests through the funnel of the service.

A process ranks on the thread of its event loop. A request that finds nobody at work ranks at once; what arrives
meanwhile waits, and all that wait are then ranked, up to a bound, as one batch: the calls that a batch
needs are shared. So a request alone waits for no other, and the more wait, the less each of them costs. Between two
batches the loop reads what arrived, so that waiting requests are counted; a request that would wait too long is
refused with 503 instead of queued. The `time` of a request is bounded around now, since what is served is logged, and
trained on at its time.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Generic, TypeVar

import msgspec

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.core.errors import RequestError
from corank.core.panics import panics_as_errors
from corank.core.time import MILLISECOND, now_ms
from corank.funnel.funnel import AT_ONCE, Funnel
from corank.funnel.ranking import Ranking
from corank.funnel.request import Request
from corank_serve.http.asgi import HttpCall, HttpReply, RefusedError, shorten_error
from corank_serve.http.body import (
    RETRY_AFTER,
    BodyReader,
    Codec,
    RequestBatch,
    answer_to,
    read_candidates,
    read_query,
)
from corank_serve.http.connections import ConnectionPool
from corank_serve.http.exploration import Explorer
from corank_serve.http.follower import Follower
from corank_serve.http.prometheus import ServiceMetrics
from corank_serve.http.serve_settings import Limits
from corank_serve.http.user_lookup import UserLookup, lookup_seconds
from corank_serve.log.request_log import RequestLog

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


T = TypeVar("T")
R = TypeVar("R")


class RankQueue(Generic[T, R]):
    """Requests in the order in which they came. The event loop ranks a batch of them between two of its turns."""

    def __init__(
        self, rank: Callable[[Sequence[T]], Sequence[R | Exception]], requests: int, candidates: int
    ) -> None:
        """
        Args:
            rank: ranks a batch: for each request its outcome, or the error that it gets.
            requests: of a batch, at most.
            candidates: of a batch of several requests, at most.
        """
        self._rank, self._most_requests, self._most_candidates = rank, requests, candidates
        self._waiting: deque[tuple[T, int, asyncio.Future[R | Exception]]] = deque()
        """Request, number of candidates, and outcome. While there are any, a call to rank them is scheduled."""

    async def run(self, request: T, candidates: int, alone: bool = False) -> R:
        """Wait for the turn of a request of so many candidates, and return its outcome. Raises its error.

        `alone`: no other request has arrived, so that there is none to let in before this one is ranked.
        """
        if alone and not self._waiting:
            (outcome,) = self._outcomes([request])
        else:
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._rank_waiting)  # after the loop has read what has arrived
            done: asyncio.Future[R | Exception] = loop.create_future()
            self._waiting.append((request, candidates, done))
            outcome = await done
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _rank_waiting(self) -> None:
        """Rank the first that wait, as one batch."""
        batch, left = list[tuple[T, asyncio.Future[R | Exception]]](), self._most_candidates
        while self._waiting and len(batch) < self._most_requests:
            request, size, done = self._waiting[0]
            if batch and size > left:
                break
            self._waiting.popleft()
            if not done.cancelled():
                batch.append((request, done))
                left -= size
        outcomes = self._outcomes([request for request, _ in batch]) if batch else []
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            done.set_result(outcome)
        if self._waiting:
            loop = asyncio.get_running_loop()
            # in between, answers are sent, and what has arrived is read
            loop.call_soon(loop.call_soon, self._rank_waiting)

    def _outcomes(self, requests: Sequence[T]) -> Sequence[R | Exception]:
        """The outcome of each request of a batch, whatever happens: nobody else answers those that wait for it."""
        try:
            with panics_as_errors():
                return self._rank(requests)
        except Exception as error:
            return [error] * len(requests)


Waiting = tuple[Ranking, Funnel | None]
"""A request that waits to be ranked, and the funnel that must rank it; None for the one that is live when its turn
comes. One of a batch has its funnel, and its time counts from its turn."""


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
        request_log: RequestLog | None = None,
        explorer: Explorer | None = None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of the queue and of clocks.
            pool: the connections by which requests come.
            bodies: reads the worker's bodies.
            metrics: counts requests.
            users: looks columns of users up.
            request_log: where served requests are logged; None: nowhere.
            explorer: draws pages of some requests; None: of none.
        """
        self._explorer = explorer
        self._follower, self._limits, self._bodies, self._metrics = follower, limits, bodies, metrics
        self._pool, self._users, self._request_log = pool, users, request_log
        self.waiting = 0
        """Requests that wait or are ranked."""
        self._queue = RankQueue(self._rank, AT_ONCE, MOST_CANDIDATES)
        self._answered = count()

    async def rank(self, call: HttpCall) -> HttpReply:
        """POST /rank: rank the candidates of a request."""
        # read before the request counts as waiting, so that a slow sender keeps nobody else out
        codec, body = await self._bodies.read(call)
        arrived = time.perf_counter()
        self._shed_if_full()
        # before the request's turn, so that no other request waits for the store
        request, user = await self._find_user(codec.decode_whole(body, Request))
        self._shed_if_full()
        return await self._answer_alone(call, Ranking(request, arrived, size=len(body), user=user))

    async def rank_ahead(self, call: HttpCall) -> HttpReply:
        """POST /rank/ahead: rank a request whose query comes first, and whose candidates follow.

        The user is looked up and the query encoded while the client finds candidates. Both come by one connection, to
        one worker, so that nothing is kept between requests.
        """
        first = await self._bodies.read_line(call)
        self._shed_if_full()
        query, user = await self._find_user(read_query(first))
        check_clock(query, self._limits.clock_skew)
        one = self._follower.funnel.prepare(query)
        second = await self._bodies.read_rest(call)
        one.began, one.size, one.user = time.perf_counter(), len(first) + len(second), user
        self._shed_if_full()
        one.request = msgspec.structs.replace(query, candidates=read_candidates(second))
        return await self._answer_alone(call, one)

    async def _answer_alone(self, call: HttpCall, one: Ranking) -> HttpReply:
        """The reply to a request of a single ranking, which counts as waiting from now on."""
        self.waiting += 1
        one.x_request_id = call.request_id
        try:
            return answer_to(call, await self._run(call, one, alone=len(self._pool.tasks) == 1))
        finally:
            self.waiting -= 1

    async def rank_batch(self, call: HttpCall) -> HttpReply:
        """POST /rank/batch: rank several requests by one version.

        As many as fit into one batch of the service at once; other requests have their turns between. What is wrong
        with one request is said in its place.
        """
        codec, body = await self._bodies.read(call)
        parts = codec.decode_whole(body, RequestBatch).requests
        self._shed_if_full()
        funnel, answers = self._follower.funnel, list[dict[str, Any]]()
        self.waiting += len(parts)
        try:
            for first in range(0, len(parts), AT_ONCE):
                some = enumerate(parts[first : first + AT_ONCE], first)
                ranked = (self._rank_part(call, funnel, n, part, codec) for n, part in some)
                answers += await asyncio.gather(*ranked)
        finally:
            self.waiting -= len(parts)
        manifest = funnel.manifest
        answer = {
            "model_version": manifest.model_version,
            "items_seq": manifest.items_seq,
            "items_id": manifest.items_id,
            "answers": answers,
        }
        return answer_to(call, answer)

    async def _rank_part(
        self, call: HttpCall, funnel: Funnel, n: int, part: msgspec.Raw, codec: Codec
    ) -> dict[str, Any]:
        """The answer to the nth request of a batch, or its error. Its deadlines count from its own turn."""
        try:
            request, user = await self._find_user(codec.decode(part, Request))
            one = Ranking(request, size=len(bytes(part)), user=user)
            if call.request_id is not None:
                one.x_request_id = f"{call.request_id}/{n}"
            return await self._run(call, one, funnel)
        except RequestError as error:
            return {"error": shorten_error(str(error)), "status": 400}
        except RefusedError as refused:
            return {"error": shorten_error(refused.error), "status": refused.status}

    async def _find_user(self, request: Request) -> tuple[Request, str]:
        """A request with what the store has of its user, if it is asked, and what the answer says of the user."""
        if self._users is None:
            return request, "given"
        seconds = lookup_seconds(self._follower.funnel.manifest)
        outcome, columns = await self._users.find(request.user, seconds)
        if outcome != "given":
            self._metrics.count("user_lookups", outcome)
        if columns:
            request = msgspec.structs.replace(request, user=request.user | columns)
        return request, outcome if outcome in ("given", "stored", "new") else "unavailable"

    def _shed_if_full(self) -> None:
        """Raise RefusedError if as many requests are waiting as may."""
        if self.waiting >= self._limits.queue:
            raise RefusedError(
                503, f"{self.waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}, "queue"
            )

    async def _run(
        self, call: HttpCall, one: Ranking, funnel: Funnel | None = None, alone: bool = False
    ) -> dict[str, Any]:
        """The answer to a request, when its turn has come; at once if it is alone. The others are as in `Waiting`."""
        check_clock(one.request, self._limits.clock_skew)
        if self._explorer is not None:
            one.draw = self._explorer.find_draw(one, self._follower.funnel.manifest.data, call.caller)
        candidates = one.request.count_candidates(self._follower.funnel.retrieved)
        answer = await self._queue.run((one, funnel), candidates, alone)
        call.ranked.append(one)
        return answer

    def _rank(self, batch: Sequence[Waiting]) -> list[dict[str, Any] | Exception]:
        """The answers to a batch of requests."""
        began, answers = time.perf_counter(), list[dict[str, Any] | Exception]()
        self._metrics.observe_batch(len(batch))
        for one, funnel in batch:
            if funnel is not None:
                one.began = began
        ranked = [(one, funnel or self._follower.funnel) for one, funnel in batch]
        for (one, funnel), error in zip(ranked, _run_batch(ranked), strict=True):
            try:
                if error is not None:
                    raise error
                with panics_as_errors():
                    answers.append(self._answer(one, funnel))
            except RUNTIME_ERRORS as error:
                self._metrics.count("failed")
                answers.append(RefusedError(500, f"the first stage cannot be computed: {error}"))
            except Exception as error:
                answers.append(error)
        return answers

    def _answer(self, one: Ranking, funnel: Funnel) -> dict[str, Any]:
        """The answer to a request that a funnel ranked, which is logged and counted."""
        if next(self._answered) % REMEMBERED_EVERY == 0 and one.size <= REMEMBERED_BYTES:
            self._follower.recent.append(one.request)
        if one.unknown:
            self._follower.request_refresh()  # the store may know them by now
        if self._request_log is not None:
            self._request_log.add(funnel, one)
        answer = one.to_answer()
        one.done = time.perf_counter()
        self._metrics.observe(one)
        return answer


def _run_batch(batch: Sequence[tuple[Ranking, Funnel]]) -> list[Exception | None]:
    """Run each request by its funnel, those of one at once: its error, None if it was ranked."""
    outcomes: list[Exception | None] = [None] * len(batch)
    for funnel in {id(one): one for _, one in batch}.values():
        numbers = [n for n, (_, one) in enumerate(batch) if one is funnel]
        try:
            errors = funnel.run_many([batch[n][0] for n in numbers], bounded=True)
        except Exception as error:  # a broken graph or a plug-in's stage may raise anything
            errors = [error] * len(numbers)
        for n, failed in zip(numbers, errors, strict=True):
            outcomes[n] = failed
    return outcomes
