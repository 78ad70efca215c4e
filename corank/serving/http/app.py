"""The HTTP endpoints: rank, insert items, report version, health and metrics.

A process ranks one request at a time, on the thread of its event loop: a request is about a millisecond of work for
one core. Between two requests the loop reads what arrived, so that waiting requests are counted; a request that would
wait too long is refused with 503 instead of queued.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.core.errors import StoreError
from corank.serving.funnel.example import make_example
from corank.serving.http.access.audit import name_change
from corank.serving.http.access.control import AccessControl
from corank.serving.http.access.guard import guard
from corank.serving.http.access.refusal import RefusedError, json_response
from corank.serving.http.access.tokens import Scope
from corank.serving.http.body import RETRY_AFTER, BodyReader
from corank.serving.http.follower import Follower
from corank.serving.http.lookup.user_lookup import GIVEN, FoundUser, UserLookup, lookup_seconds
from corank.serving.http.openapi import make_document
from corank.serving.http.page import funnel_page
from corank.serving.http.process.connections import POOL, ConnectionPool
from corank.serving.http.process.daemon_threads import DaemonThreads
from corank.serving.http.process.draining import Drain
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.request_clock import check_clock
from corank.serving.http.schemas import check_quotas, decode_items, decode_request
from corank.serving.http.serve_settings import Limits
from corank.serving.http.service_status import ServiceStatus
from corank.serving.http.source import StoreSource
from corank.serving.log.log_writing import writing
from corank.serving.log.request_log import RequestLog
from corank.serving.store.upsert import VersionChangedError, upsert

REMEMBERED_BYTES = 2**16
"""Largest body whose request is kept to warm the next version, so that little memory is held."""

PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""What the page's own policy, a meta element, cannot state."""

GAUGES_SECONDS = 1.0
"""Time between two updates of the gauges."""
CHECK_SECONDS = 30.0
"""Longest time that a client waits until the source has been checked."""
WRITERS, WRITES = 2, 16
"""Threads that write into the store, and writes that may run or wait."""


class RankingService:
    """HTTP endpoints of one worker process."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        access: AccessControl | None = None,
        users: UserLookup | None = None,
        request_log: RequestLog | None = None,
        drain: Drain | None = None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of bodies and of the queue.
            access: who may call; without it nobody may write.
            users: looks columns of users up.
            request_log: where served requests are logged.
            drain: begins when the process is told to end.
        """
        self.follower, self.limits = follower, limits
        self._access = access or AccessControl()
        self._bodies = BodyReader(limits)
        self._users, self._request_log = users, request_log
        self.drain = drain or Drain()
        self.status = ServiceStatus(follower, self.drain, users)
        self.metrics = ServiceMetrics(self.status)
        self._writers = DaemonThreads("corank-write", WRITERS, WRITES)
        self._waiting = 0
        self._turn = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application."""
        access = self._access
        routes = [
            Route("/rank", guard(access, self.rank, Scope.READ), methods=["POST"]),
            Route("/items", guard(access, self.put_items, Scope.WRITE, "upsert"), methods=["POST"]),
            Route("/reload", guard(access, self.reload, Scope.ADMIN, "reload"), methods=["POST"]),
            Route("/version", guard(access, self.get_version, Scope.READ)),
            Route("/item", guard(access, self.get_item, Scope.READ)),
            Route("/example", guard(access, self.get_example, Scope.READ)),
            Route("/status", guard(access, self.get_status, Scope.READ)),
            Route("/metrics", guard(access, self.get_metrics, Scope.READ)),
            Route("/healthz", guard(access, self.get_health)),
            Route("/readyz", guard(access, self.get_readiness)),
            Route("/openapi.json", guard(access, self.get_openapi)),
            Route("/", guard(access, self.get_page)),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.follower.start()
        if self._users is not None:
            await asyncio.to_thread(self._users.start)
        gauges = asyncio.create_task(self._update_gauges())
        gc.freeze()  # a million ids in dicts need not be visited by every collection
        async with writing(self._request_log, self.follower.report, self.metrics.count_logged):
            yield {POOL: ConnectionPool(self.limits, self.metrics.count_cut_off)}
        gauges.cancel()
        await asyncio.to_thread(self.follower.stop)
        if self._users is not None:
            await asyncio.to_thread(self._users.close)

    async def _update_gauges(self) -> None:
        while True:
            await asyncio.sleep(GAUGES_SECONDS)
            self.metrics.update_gauges()

    async def rank(self, http: HttpRequest) -> Response:
        """POST /rank: rank the candidates of a request."""
        # read before the request counts as waiting, so that a slow sender keeps nobody else out
        async with self._bodies.read(http) as body:
            arrived = time.perf_counter()
            self._shed_if_full()
            user = GIVEN
            if self._users is not None:
                # before the request's turn, so that no other request waits for the store
                user = await self._users.find(body, lookup_seconds(self.follower.funnel.manifest))
                self.metrics.count_lookup(user.outcome)
                self._shed_if_full()
            self._waiting += 1
            try:
                waits = self._turn.locked()
                async with self._turn:
                    if not waits:
                        # a request that waited is woken by the loop, which first reads new arrivals: let it read here
                        await asyncio.sleep(0)
                    return self._rank(body, arrived, user)
            finally:
                self._waiting -= 1

    def _shed_if_full(self) -> None:
        """Raise RefusedError if as many requests are waiting as may."""
        if self._waiting >= self.limits.queue:
            self.metrics.count_shed()
            raise RefusedError(
                503, f"{self._waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}
            )

    def _rank(self, body: bytes, arrived: float, user: FoundUser) -> Response:
        funnel, request = self.follower.funnel, decode_request(body)
        if self.limits.clock_skew is not None:
            check_clock(request, self.limits.clock_skew)
        if user.columns:
            request = msgspec.structs.replace(request, user=request.user | user.columns)
        check_quotas(request, funnel.manifest)
        try:
            result = funnel.run(request, arrived)
        except RUNTIME_ERRORS as error:
            self.metrics.count_failed()
            raise RefusedError(500, f"the first stage cannot be computed: {error}") from None
        if len(body) <= REMEMBERED_BYTES:
            self.follower.recent.append(request)
        if result.encoded.unknown:
            self.follower.request_refresh()  # the store may know them by now
        answer = result.to_answer() | {"user": user.origin}
        if request.trace:
            answer["microseconds"] = {name: round(s * 1e6) for name, s in result.seconds.items()}
        self.metrics.observe(result, time.perf_counter() - arrived)
        if self._request_log is not None:
            self._request_log.add(funnel, result)
        return json_response(answer)

    async def put_items(self, http: HttpRequest) -> Response:
        """POST /items: insert or replace items of the live version."""
        source = self.follower.source
        if not isinstance(source, StoreSource) or source.trusted is not None:
            raise RefusedError(409, source.without_items)
        async with self._bodies.read(http) as body:
            rows = decode_items(body).rows()
            http.state.change = {"items": len(rows)}
            try:
                funnel, by = self.follower.funnel, http.state.caller
                version = funnel.manifest.content
                seq = await self._write(lambda: upsert(source.open(), version, funnel, rows, by))
            except VersionChangedError as error:
                self.follower.request_refresh()
                raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
            except StoreError as error:
                raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        http.state.change |= {"version": version, "to": {"items_seq": seq}, "from": {"items_seq": seq - 1}}
        answer = {"items": len(rows), "items_seq": seq}
        if not await self._check_source():
            return json_response(answer | {"live": False})
        after = self.follower.funnel.manifest
        if (
            after.items_seq == seq
        ):  # else another change has followed, and the store's log has the id of this one
            http.state.change["to"] = name_change(after)
        return json_response(answer)

    async def _write(self, write: Callable[[], int]) -> int:
        """Write into the store in a thread. Raises RefusedError if too many writes are waiting."""
        done = self._writers.submit(write)
        if done is None:
            raise RefusedError(503, f"{WRITES} writes are waiting; try again", {"Retry-After": RETRY_AFTER})
        return await asyncio.wrap_future(done)

    async def _check_source(self) -> bool:
        """Let the follower check the source, and return whether it did so in time."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self.follower.next_check()), CHECK_SECONDS)
        except TimeoutError:
            return False
        return self.follower.trouble is None

    async def reload(self, http: HttpRequest) -> Response:
        """POST /reload: check for a new version now."""
        before = self.follower.funnel.manifest
        if not await self._check_source():
            trouble = self.follower.trouble or f"the source is still being read after {CHECK_SECONDS:g} s"
            raise RefusedError(503, trouble, {"Retry-After": RETRY_AFTER})
        after = self.follower.funnel.manifest
        http.state.change = {"from": name_change(before), "to": name_change(after)}
        return await self.get_version(http)

    async def get_version(self, http: HttpRequest) -> Response:
        """GET /version: the live version and its stages."""
        manifest = self.follower.funnel.manifest
        stages = [
            {"name": s.name, "keep": s.keep, "min_score": s.min_score, "deadline_ms": s.deadline_ms}
            for s in manifest.stages
        ]
        return json_response(
            {
                "name": manifest.name,
                "model_version": manifest.model_version,
                "items_seq": manifest.items_seq,
                "items_id": manifest.items_id,
                "from_cache": self.follower.from_cache,
                "items": int(self.follower.funnel.request_encoder.items.bounds[-1]),
                "stages": stages,
            }
        )

    async def get_item(self, http: HttpRequest) -> Response:
        """GET /item?id=ID: what the live version knows of an item."""
        text = http.query_params.get("id")
        if text is None:
            raise RefusedError(400, "expected ?id=")
        found = self.follower.funnel.describe_item(text)
        if found is None:
            raise RefusedError(404, f"no item {text!r}")
        return json_response(found)

    async def get_example(self, http: HttpRequest) -> Response:
        """GET /example: a random request."""
        return json_response(make_example(self.follower.funnel, np.random.default_rng()))

    async def get_health(self, http: HttpRequest) -> Response:
        """GET /healthz: whether the process is alive."""
        return json_response({"alive": True})

    async def get_readiness(self, http: HttpRequest) -> Response:
        """GET /readyz: 503 once the process was told to end; until then it can serve, with or without its source."""
        if not self.status.is_ready:
            raise RefusedError(503, "draining")
        return json_response({"ready": True})

    async def get_status(self, http: HttpRequest) -> Response:
        """GET /status: whether the source can be read, and how far what is served is behind it."""
        return json_response(self.status.describe())

    async def get_metrics(self, http: HttpRequest) -> Response:
        """GET /metrics: for Prometheus."""
        content, content_type = self.metrics.expose()
        return Response(content, headers={"Content-Type": content_type})

    async def get_openapi(self, http: HttpRequest) -> Response:
        """GET /openapi.json: the OpenAPI document."""
        return json_response(make_document(self.limits.body))

    async def get_page(self, http: HttpRequest) -> Response:
        """GET /: the page of the funnel."""
        return HTMLResponse(funnel_page(), headers=PAGE_HEADERS)
