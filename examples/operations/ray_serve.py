"""The funnel as a deployment of Ray Serve: `serve run ray_serve:app source=bundle`, with `pip install 'ray[serve]'`.

A replica ranks what waits as one batch, as a worker of `corank serve` does; the answers are the same. What the service
adds is missing: it follows no store, looks no users up, logs no requests, and has no tokens and no deadlines.
"""

from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import corank
from corank.core.errors import RequestError


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Ranker:
    """Ranks by one version. Deploy another source to change it: Ray replaces the replicas one by one."""

    def __init__(self, source: str) -> None:
        """`source`: a bundle's folder or URL, or a store, whose live version is opened once."""
        self._funnel = corank.Funnel.open(source)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def rank(self, requests: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
        """For each request that waits a status and an answer."""
        return [
            (400, {"error": str(one)}) if isinstance(one, RequestError) else (200, one)
            for one in map(raise_others, self._funnel.rank_many(requests))
        ]

    async def __call__(self, http: Request) -> JSONResponse:
        """Answer a body as `POST /rank` of `corank serve` does."""
        status, answer = await self.rank(await http.json())
        return JSONResponse(answer, status)


def raise_others(outcome: dict[str, Any] | Exception) -> dict[str, Any] | RequestError:
    """An answer, or what the client did wrong. Raises any other error, which Ray reports."""
    if isinstance(outcome, Exception) and not isinstance(outcome, RequestError):
        raise outcome
    return outcome


def app(arguments: dict[str, str]) -> Any:
    """The application, of `source=…`."""
    return Ranker.bind(arguments["source"])  # type: ignore[attr-defined]
