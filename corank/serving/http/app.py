"""The funnel over HTTP: ranks, takes items, tells its version, its health and its figures.

One process ranks one request at a time, on the thread of its event loop: a request is a millisecond of work for one
core. Between two requests the loop reads what came, so who has to wait is counted, and who would wait too long is sent
away with 503 rather than queued.
"""

import asyncio
import gc
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Http
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from corank.core.errors import CorankError, RequestError, StoreError
from corank.serving.funnel.example import example
from corank.serving.funnel.stage_scorer import RUNTIME_ERRORS
from corank.serving.http import schemas as bodies
from corank.serving.http.follower import Follower, StoreSource
from corank.serving.http.openapi import document
from corank.serving.http.page import funnel_page
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.request_log import RequestLog
from corank.serving.store.publish import VersionChangedError, upsert
from corank.serving.store.users import UserStore

RETRY_AFTER = "1"
"""Seconds that one who was sent away should wait."""

REMEMBERED = 2**16
"""Bytes of a body whose request may warm the next version: what is remembered must stay small."""

PAGE = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""What a page's own policy cannot say."""

Handler = Callable[[Http], Awaitable[Response]]


@dataclass(frozen=True)
class Limits:
    queue: int = 64
    """Requests that may wait."""
    body: int = 4 << 20
    """Bytes."""
    seconds: float = 10.0
    """In which a body must have come."""


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, headers


class Service:
    """One worker's."""

    def __init__(
        self,
        follower: Follower,
        limits: Limits,
        token: str | None = None,
        users: UserStore | None = None,
        served: RequestLog | None = None,
    ) -> None:
        """`token` is asked of who writes; without one nobody may."""
        self.follower, self.limits, self._token = follower, limits, token
        self._users, self._served = users, served
        self.gauges = ServiceMetrics(follower)
        self._waiting = 0
        self._turn = asyncio.Lock()

    def app(self) -> Starlette:
        routes = [
            Route("/rank", self._answered(self.rank), methods=["POST"]),
            Route("/items", self._answered(self.items), methods=["POST"]),
            Route("/reload", self._answered(self.reload), methods=["POST"]),
            Route("/version", self._answered(self.version)),
            Route("/item", self._answered(self.item)),
            Route("/example", self._answered(self.example)),
            Route("/healthz", self._answered(self.healthz)),
            Route("/readyz", self._answered(self.readyz)),
            Route("/metrics", self._answered(self.metrics)),
            Route("/openapi.json", self._answered(self.openapi)),
            Route("/", self._answered(self.page)),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.follower.start()
        writing = asyncio.create_task(self._write_served())
        gc.freeze()  # a million ids in dicts need not be walked again and again
        yield
        writing.cancel()
        if self._served is not None:
            await asyncio.to_thread(self._served.write)
        await asyncio.to_thread(self.follower.stop)

    async def _write_served(self) -> None:
        while self._served is not None:
            await asyncio.sleep(1)
            if self._served.full():
                try:
                    await asyncio.to_thread(self._served.write)
                except CorankError as error:
                    self.follower.report(str(error))

    def _answered(self, handler: Handler) -> Handler:
        """A handler whose refusals are answers in JSON."""

        async def answered(http: Http) -> Response:
            try:
                return await handler(http)
            except RefusedError as refused:
                return _json({"error": refused.error}, refused.status, refused.headers)
            except RequestError as error:
                return _json({"error": str(error)}, 400)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return answered

    async def rank(self, http: Http) -> Response:
        """Rank the candidates of a request."""
        body = await self._body(http)  # not counted: whoever sends slowly keeps nobody else out
        arrived = time.perf_counter()
        if self._waiting >= self.limits.queue:
            self.gauges.shed()
            raise RefusedError(
                503, f"{self._waiting} requests are waiting; try again", {"Retry-After": RETRY_AFTER}
            )
        self._waiting += 1
        try:
            waits = self._turn.locked()
            async with self._turn:
                if not waits:
                    # one who waited is woken by the loop, which reads first what came meanwhile: let it read here, too
                    await asyncio.sleep(0)
                return self._ranked(body, arrived)
        finally:
            self._waiting -= 1

    def _ranked(self, sent: bytes, arrived: float) -> Response:
        funnel, body = self.follower.funnel, bodies.rank(sent)
        user, found = self._user(body)
        request = body.request(user)
        try:
            ranked = funnel.ranked(request, arrived)
        except RUNTIME_ERRORS as error:
            self.gauges.failed()
            raise RefusedError(500, f"the first stage cannot be computed: {error}") from None
        if len(sent) <= REMEMBERED:
            self.follower.recent.append(request)
        if ranked.received.unknown:
            self.follower.soon()  # the store may know them by now
        answer = ranked.answer() | {"user": found}
        if request.trace:
            answer["microseconds"] = {name: round(s * 1e6) for name, s in ranked.seconds.items()}
        self.gauges.ranked(ranked, time.perf_counter() - arrived)
        if self._served is not None:
            self._served.add(funnel, ranked)
        return _json(answer)

    def _user(self, body: bodies.Rank) -> tuple[dict[str, Any], str]:
        """The user's columns, and whence: given, stored, new, or unavailable where the store cannot be asked."""
        user = dict(body.user)
        if user.keys() - {"id"} or self._users is None:
            return user, "given"
        if self.follower.trouble is not None:  # else every request would wait for what does not answer
            return user, "unavailable"
        try:
            held = self._users.columns(user.get("id"))
        except StoreError:
            self.follower.soon()
            return user, "unavailable"
        return (user | held, "stored") if held is not None else (user, "new")

    async def items(self, http: Http) -> Response:
        """Put new or changed items into the live version."""
        self._authorised(http)
        source = self.follower.source
        if not isinstance(source, StoreSource):
            raise RefusedError(
                409, "a bundle is served, and takes no items; `corank publish` it, and serve the store"
            )
        rows = bodies.items(await self._body(http)).rows()
        try:
            funnel = self.follower.funnel
            seq = await asyncio.to_thread(upsert, source.store, funnel.manifest.content, funnel, rows)
            await asyncio.to_thread(self.follower.look)
        except VersionChangedError as error:
            self.follower.soon()
            raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        except StoreError as error:
            raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        return _json({"items": len(rows), "items_seq": seq})

    async def reload(self, http: Http) -> Response:
        """Look for a newer version now."""
        self._authorised(http)
        await asyncio.to_thread(self.follower.look)
        return await self.version(http)

    async def version(self, http: Http) -> Response:
        manifest = self.follower.funnel.manifest
        stages = [
            {"name": s.name, "keep": s.keep, "min_score": s.min_score, "deadline_ms": s.deadline_ms}
            for s in manifest.stages
        ]
        return _json(
            {
                "name": manifest.name,
                "model_version": manifest.model_version,
                "items_seq": manifest.items_seq,
                "items": int(self.follower.funnel.request_encoder.items.bounds[-1]),
                "stages": stages,
            }
        )

    async def item(self, http: Http) -> Response:
        """What the live version knows of an item."""
        text = http.query_params.get("id")
        if text is None:
            raise RefusedError(400, "expected ?id=")
        found = self.follower.funnel.described(text)
        if found is None:
            raise RefusedError(404, f"no item {text!r}")
        return _json(found)

    async def example(self, http: Http) -> Response:
        """A request to rank, made up anew each time."""
        return _json(example(self.follower.funnel, np.random.default_rng()))

    async def healthz(self, http: Http) -> Response:
        """Whether the process lives."""
        return _json({"alive": True})

    async def readyz(self, http: Http) -> Response:
        """Whether it serves what its source has: 503 where the source cannot be asked, though it is served on."""
        trouble = self.follower.trouble
        if trouble is not None:
            raise RefusedError(503, trouble)
        return _json({"ready": True})

    async def metrics(self, http: Http) -> Response:
        content, kind = self.gauges.exposition()
        return Response(content, headers={"Content-Type": kind})

    async def openapi(self, http: Http) -> Response:
        return _json(document(self.limits.body))

    async def page(self, http: Http) -> Response:
        return HTMLResponse(funnel_page(), headers=PAGE)

    def _authorised(self, http: Http) -> None:
        """Raises RefusedError for one who may not write."""
        if self._token is None:
            raise RefusedError(403, "nobody may write: the service was started without a token")
        given = http.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise RefusedError(
                401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    async def _body(self, http: Http) -> bytes:
        """Raises RefusedError for one that is too large or too slow."""
        most, parts, size = self.limits.body, [], 0
        length = http.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            raise RefusedError(413, f"a body has {most:,} bytes at most")
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in http.stream():
                    size += len(part)
                    if size > most:
                        raise RefusedError(413, f"a body has {most:,} bytes at most")
                    parts.append(part)
        except TimeoutError:
            said = f"the body did not come within {self.limits.seconds:g} s"
            raise RefusedError(408, said, {"Connection": "close"}) from None
        return b"".join(parts)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")
