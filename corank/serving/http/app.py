"""The HTTP endpoints: rank, insert items, report version, health and metrics.

A process ranks one request at a time, on the thread of its event loop: a request is about a millisecond of work for
one core. Between two requests the loop reads what arrived, so that waiting requests are counted; a request that would
wait too long is refused with 503 instead of queued.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from corank.core.errors import CorankError, RequestError, StoreError
from corank.serving.funnel.example import make_example
from corank.serving.funnel.request import Request
from corank.serving.funnel.stage_scorer import RUNTIME_ERRORS
from corank.serving.http.body import RefusedError, check_token, json_response, read_body
from corank.serving.http.follower import Follower, StoreSource
from corank.serving.http.openapi import make_document
from corank.serving.http.page import funnel_page
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.request_log import RequestLog
from corank.serving.http.schemas import decode_items, decode_request
from corank.serving.http.serve_settings import Limits
from corank.serving.store.upsert import VersionChangedError, upsert
from corank.serving.store.users import UserStore

RETRY_AFTER = "1"
"""Seconds after which a refused client should retry."""

REMEMBERED_BYTES = 2**16
"""Largest body whose request is kept to warm the next version, so that little memory is held."""

PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""What the page's own policy, a meta element, cannot state."""

Handler = Callable[[HttpRequest], Awaitable[Response]]


class RankingService:
    """HTTP endpoints of one worker process."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        token: str | None = None,
        users: UserStore | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            limits: of bodies and of the queue.
            token: that writers must send; without one nobody may write.
            users: where columns of users are looked up.
            request_log: where served requests are logged.
        """
        self.follower, self.limits, self._token = follower, limits, token
        self._users, self._request_log = users, request_log
        self.metrics = ServiceMetrics(follower)
        self._waiting = 0
        self._turn = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/rank", self._handle(self.rank), methods=["POST"]),
            Route("/items", self._handle(self.put_items), methods=["POST"]),
            Route("/reload", self._handle(self.reload), methods=["POST"]),
            Route("/version", self._handle(self.get_version)),
            Route("/item", self._handle(self.get_item)),
            Route("/example", self._handle(self.get_example)),
            Route("/healthz", self._handle(self.get_health)),
            Route("/readyz", self._handle(self.get_readiness)),
            Route("/metrics", self._handle(self.get_metrics)),
            Route("/openapi.json", self._handle(self.get_openapi)),
            Route("/", self._handle(self.get_page)),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.follower.start()
        writing = asyncio.create_task(self._write_log())
        gc.freeze()  # a million ids in dicts need not be visited by every collection
        yield
        writing.cancel()
        if self._request_log is not None:
            await asyncio.to_thread(self._request_log.write)
        await asyncio.to_thread(self.follower.stop)

    async def _write_log(self) -> None:
        while self._request_log is not None:
            await asyncio.sleep(1)
            if self._request_log.is_full():
                try:
                    await asyncio.to_thread(self._request_log.write)
                except CorankError as error:
                    self.follower.report(str(error))

    def _handle(self, handler: Handler) -> Handler:
        """Wrap a handler so that its errors become replies in JSON."""

        async def handle(http: HttpRequest) -> Response:
            try:
                return await handler(http)
            except RefusedError as refused:
                return json_response({"error": refused.error}, refused.status, refused.headers)
            except RequestError as error:
                return json_response({"error": str(error)}, 400)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return handle

    async def rank(self, http: HttpRequest) -> Response:
        """POST /rank: rank the candidates of a request."""
        # read before the request counts as waiting, so that a slow sender keeps nobody else out
        body = await read_body(http, self.limits)
        arrived = time.perf_counter()
        if self._waiting >= self.limits.queue:
            self.metrics.count_shed()
            raise RefusedError(
                503, f"{self._waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}
            )
        self._waiting += 1
        try:
            waits = self._turn.locked()
            async with self._turn:
                if not waits:
                    # a request that waited is woken by the loop, which first reads new arrivals: let it read here, too
                    await asyncio.sleep(0)
                return self._rank(body, arrived)
        finally:
            self._waiting -= 1

    def _rank(self, body: bytes, arrived: float) -> Response:
        funnel, request = self.follower.funnel, decode_request(body)
        request, origin = self._with_user(request)
        try:
            result = funnel.run(request, arrived)
        except RUNTIME_ERRORS as error:
            self.metrics.count_failed()
            raise RefusedError(500, f"the first stage cannot be computed: {error}") from None
        if len(body) <= REMEMBERED_BYTES:
            self.follower.recent.append(request)
        if result.encoded.unknown:
            self.follower.request_refresh()  # the store may know them by now
        answer = result.to_answer() | {"user": origin}
        if request.trace:
            answer["microseconds"] = {name: round(s * 1e6) for name, s in result.seconds.items()}
        self.metrics.observe(result, time.perf_counter() - arrived)
        if self._request_log is not None:
            self._request_log.add(funnel, result)
        return json_response(answer)

    def _with_user(self, request: Request) -> tuple[Request, str]:
        """The request with the user's stored columns, and their origin: given, stored, new, unavailable."""
        user = request.user
        if user.keys() - {"id"} or self._users is None:
            return request, "given"
        if (
            self.follower.trouble is not None
        ):  # else every request would wait for a store that does not answer
            return request, "unavailable"
        try:
            columns = self._users.find(user.get("id"))
        except StoreError:
            self.follower.request_refresh()
            return request, "unavailable"
        if columns is None:
            return request, "new"
        return msgspec.structs.replace(request, user=user | columns), "stored"

    async def put_items(self, http: HttpRequest) -> Response:
        """POST /items: insert or replace items of the live version."""
        check_token(http, self._token)
        source = self.follower.source
        if not isinstance(source, StoreSource):
            raise RefusedError(
                409, "a bundle is served, and takes no items; `corank publish` it, and serve the store"
            )
        rows = decode_items(await read_body(http, self.limits)).rows()
        try:
            funnel = self.follower.funnel
            seq = await asyncio.to_thread(upsert, source.store, funnel.manifest.content, funnel, rows)
            await asyncio.to_thread(self.follower.refresh)
        except VersionChangedError as error:
            self.follower.request_refresh()
            raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        except StoreError as error:
            raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        return json_response({"items": len(rows), "items_seq": seq})

    async def reload(self, http: HttpRequest) -> Response:
        """POST /reload: check for a new version now."""
        check_token(http, self._token)
        await asyncio.to_thread(self.follower.refresh)
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
        """GET /readyz: 503 if the source cannot be read; the last version is still served then."""
        trouble = self.follower.trouble
        if trouble is not None:
            raise RefusedError(503, trouble)
        return json_response({"ready": True})

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
