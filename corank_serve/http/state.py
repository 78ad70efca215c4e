"""Endpoints that tell what is live, and the state of the process; and those that change it, POST /items and /reload.

The page of the service shows a request's way through the funnel. It is one HTML document with its style and script,
whose content security policy lets it fetch from its own service and nowhere else.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from corank.core.errors import StoreError
from corank.funnel.random_requests import make_example
from corank_serve.http.access_log import name_change
from corank_serve.http.asgi import HttpCall, HttpReply, RefusedError, json_reply
from corank_serve.http.body import RETRY_AFTER, BodyReader, Items, answer_to
from corank_serve.http.circuit_breaker import DaemonThreads
from corank_serve.http.follower import Follower, ServiceStatus
from corank_serve.http.openapi import make_document
from corank_serve.http.prometheus import ServiceMetrics
from corank_serve.store.live_version import StoreState
from corank_serve.store.source import StoreSource
from corank_serve.store.upsert import upsert

SCRIPTS = ("dom", "scheme", "service", "request", "flow", "rank_plot", "candidates", "compare", "page")
"""What the page's own script, which comes last, is made of."""


@cache
def funnel_page() -> str:
    """Return the HTML document."""
    style = _read("page.css")
    script = "\n".join(_read(f"{part}.js") for part in SCRIPTS)
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "style-src": _only(style),
        "script-src": _only(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        # the browser refuses to turn text into markup, whatever the script does
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return Template(_read("page.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()), style=style, script=script
    )


def _read(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


def _only(content: str) -> str:
    """The source expression that allows inline content by its digest."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""What the page's own policy, a meta element, cannot state."""


def describe_version(follower: Follower) -> dict[str, Any]:
    """The live version and its stages."""
    manifest = follower.funnel.manifest
    stages: list[dict[str, Any]] = [
        {"name": s.name, "keep": s.keep, "min_score": s.min_score, "deadline_ms": s.deadline_ms}
        for s in manifest.stages
    ]
    if (page := manifest.page) is not None:
        rules = [str(rule) for rule in page.rules]
        stages.append(
            {"name": page.name, "keep": page.keep, "min_score": None, "deadline_ms": None, "rules": rules}
        )
    return {
        "name": manifest.name,
        "model_version": manifest.model_version,
        "items_seq": manifest.items_seq,
        "items_id": manifest.items_id,
        "pinned": follower.is_pinned,
        "from_cache": follower.from_cache,
        "items": int(follower.funnel.request_encoder.items.bounds[-1]),
        "stages": stages,
    }


class StateEndpoints:
    """Tells what one worker process serves, and how it is."""

    def __init__(
        self, follower: Follower, status: ServiceStatus, metrics: ServiceMetrics, max_body: int
    ) -> None:
        """
        Args:
            follower: holds the live funnel.
            status: of the process.
            metrics: of the process.
            max_body: bytes of the largest body.
        """
        self._follower, self._status, self._metrics, self._max_body = follower, status, metrics, max_body

    async def get_version(self, call: HttpCall) -> HttpReply:
        """GET /version: the live version and its stages."""
        return json_reply(describe_version(self._follower))

    async def get_item(self, call: HttpCall) -> HttpReply:
        """GET /item?id=ID: what the live version knows of an item."""
        text = call.query("id")
        if text is None:
            raise RefusedError(400, "expected ?id=")
        item = self._follower.funnel.describe_item(text)
        if item is None:
            raise RefusedError(404, f"no item {text!r}")
        return json_reply(item)

    async def get_example(self, call: HttpCall) -> HttpReply:
        """GET /example: a random request."""
        return json_reply(make_example(self._follower.funnel, np.random.default_rng()))

    async def get_health(self, call: HttpCall) -> HttpReply:
        """GET /healthz: whether the process is alive."""
        return json_reply({"alive": True})

    async def get_readiness(self, call: HttpCall) -> HttpReply:
        """GET /readyz: 503 once the process was asked to end; until then it can serve, with or without its source."""
        if not self._status.is_ready:
            raise RefusedError(503, "draining")
        status = self._status.describe()
        return json_reply({name: status[name] for name in ("ready", "version", "pinned")})

    async def get_status(self, call: HttpCall) -> HttpReply:
        """GET /status: whether the source can be read, and how far what is served is behind it."""
        return json_reply(self._status.describe())

    async def get_metrics(self, call: HttpCall) -> HttpReply:
        """GET /metrics: for Prometheus."""
        content, content_type = self._metrics.expose()
        return HttpReply(content, content_type=content_type)

    async def get_openapi(self, call: HttpCall) -> HttpReply:
        """GET /openapi.json: the OpenAPI document."""
        return json_reply(make_document(self._max_body))

    async def get_page(self, call: HttpCall) -> HttpReply:
        """GET /: the page of the funnel."""
        return HttpReply(funnel_page().encode(), 200, PAGE_HEADERS, "text/html; charset=utf-8")


CHECK_SECONDS = 30.0
"""Longest time that a client waits until the source has been checked."""
WRITERS, WRITES = 2, 16
"""Threads that write into the store, and writes that may run or wait."""


class ChangeEndpoints:
    """Writes items into the store, and looks for newer versions."""

    def __init__(self, follower: Follower, bodies: BodyReader) -> None:
        """
        Args:
            follower: holds the live funnel.
            bodies: reads the worker's bodies.
        """
        self._follower, self._bodies = follower, bodies
        self._writers = DaemonThreads("corank-write", WRITERS, WRITES)

    async def put_items(self, call: HttpCall) -> HttpReply:
        """POST /items: insert or replace items of the live version, whether the worker serves it already or not."""
        source = self._follower.source
        if not isinstance(source, StoreSource) or source.trusted is not None:
            raise RefusedError(409, source.without_items)
        codec, body = await self._bodies.read(call)
        rows = codec.decode_whole(body, Items).rows()
        call.change = {"items": len(rows)}
        try:
            funnel, by = self._follower.funnel, call.caller
            head = await self._write(lambda: upsert(source.open(), funnel, rows, by))
        except StoreError as error:
            self._follower.request_refresh()
            raise RefusedError(503, str(error), {"Retry-After": RETRY_AFTER}) from None
        call.release()  # what follows may take long
        seq = head.seq
        call.change |= {"version": head.live, "to": {"items_seq": seq}, "from": {"items_seq": seq - 1}}
        answer = {"items": len(rows), "items_seq": seq}
        if funnel.manifest.content not in (head.live, source.pinned):  # loading what is live takes long
            self._follower.request_refresh()
            return answer_to(call, answer | {"live": False})
        if not await self._check_source():
            return answer_to(call, answer | {"live": False})
        after = self._follower.funnel.manifest
        if after.items_seq == seq:  # else another change has followed; the store's log has the id of this one
            call.change["to"] = name_change(after)
        return answer_to(call, answer)

    async def _write(self, write: Callable[[], StoreState]) -> StoreState:
        """Write into the store in a thread. Raises RefusedError if too many writes are waiting."""
        done = self._writers.submit(write)
        if done is None:
            raise RefusedError(503, f"{WRITES} writes are waiting; try again", {"Retry-After": RETRY_AFTER})
        return await asyncio.wrap_future(done)

    async def _check_source(self) -> bool:
        """Let the follower check the source, and return whether it did so in time."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self._follower.next_check()), CHECK_SECONDS)
        except TimeoutError:
            return False
        return self._follower.trouble is None

    async def reload(self, call: HttpCall) -> HttpReply:
        """POST /reload: check for a new version now."""
        before = self._follower.funnel.manifest
        if not await self._check_source():
            trouble = self._follower.trouble or f"the source is still being read after {CHECK_SECONDS:g} s"
            raise RefusedError(503, trouble, {"Retry-After": RETRY_AFTER})
        after = self._follower.funnel.manifest
        call.change = {"from": name_change(before), "to": name_change(after)}
        return answer_to(call, describe_version(self._follower))
