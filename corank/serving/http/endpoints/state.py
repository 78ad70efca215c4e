"""Endpoints that tell what is live, and the state of the process."""

from typing import Any

import numpy as np

from corank.serving.funnel.example import make_example
from corank.serving.http.follower import Follower
from corank.serving.http.openapi import make_document
from corank.serving.http.page import funnel_page
from corank.serving.http.prometheus import ServiceMetrics
from corank.serving.http.service_status import ServiceStatus
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import HttpReply, RefusedError, json_reply

PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""What the page's own policy, a meta element, cannot state."""


def describe_version(follower: Follower) -> dict[str, Any]:
    """The live version and its stages."""
    manifest = follower.funnel.manifest
    stages = [
        {"name": s.name, "keep": s.keep, "min_score": s.min_score, "deadline_ms": s.deadline_ms}
        for s in manifest.stages
    ]
    return {
        "name": manifest.name,
        "model_version": manifest.model_version,
        "items_seq": manifest.items_seq,
        "items_id": manifest.items_id,
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
        return json_reply({"ready": True})

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
