"""A client of a service for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from corank.core.errors import RequestError, ServiceError
from corank.core.extras import require
from corank.serving.client.answers import BatchAnswer, RankAnswer
from corank.serving.client.calls import LINES, Asked, ServiceCalls
from corank.serving.client.retries import RetryPolicy, Tries

T = TypeVar("T")


class AsyncServiceClient:
    """Ranks by a service. Tasks may share it; connections are kept open between calls.

    Example:
        >>> async with AsyncServiceClient("http://127.0.0.1:8000", packed=True) as client:  # doctest: +SKIP
        ...     (await client.rank({"user": {"id": 60}, "candidates": [1339, 1242]})).items[0].id
        1242
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        packed: bool = False,
        policy: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            url: of the service.
            token: of the client, if the service asks for one.
            packed: whether to speak MessagePack; JSON otherwise.
            policy: timeouts and retries.
            options: of `httpx2.AsyncClient`, such as `verify` or `limits`.

        Raises MissingExtraError without the extra `client`.
        """
        self._calls, self._policy = ServiceCalls(url, token, packed), policy or RetryPolicy()
        self._httpx = require("client", "httpx2", "AsyncServiceClient")
        self._client = self._httpx.AsyncClient(headers=self._calls.headers, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def rank(self, request: Asked) -> RankAnswer:
        """Rank the candidates of a request.

        Args:
            request: to rank.

        Raises:
            RequestError: the service refuses the request.
            ServiceError: it refuses the client, or does not answer in time, however often it is asked.
        """
        return await self._post("/rank", self._calls.encode(request), RankAnswer)

    async def rank_ahead(self, query: Asked, retrieve: Callable[[], Awaitable[Any]]) -> RankAnswer:
        """Rank a request whose candidates are still to be found: the service reads its query meanwhile.

        Args:
            query: a request without candidates.
            retrieve: finds them, and is called once: a list, or an array of int64.

        Raises as `rank`, and what `retrieve` raises.
        """
        first, candidate_lines = self._calls.encode_query(query), list[bytes]()

        async def lines() -> AsyncIterator[bytes]:
            yield first
            if not candidate_lines:
                candidate_lines.append(self._calls.encode_candidates(await retrieve()))
            yield candidate_lines[0]

        return await self._post("/rank/ahead", lines, RankAnswer, LINES)

    async def rank_batch(self, requests: Sequence[Asked]) -> list[RankAnswer | RequestError | ServiceError]:
        """Rank several requests by one version.

        Returns:
            The answers in order; errors in the places of the requests that are refused.

        Raises as `rank`, if the whole batch is refused.
        """
        body = self._calls.encode_batch(requests)
        return self._calls.read_batch(await self._post("/rank/batch", body, BatchAnswer), len(requests))

    async def _post(
        self,
        path: str,
        content: bytes | Callable[[], AsyncIterator[bytes]],
        kind: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        tries, url = Tries(self._policy), self._calls.url + path
        while True:
            status, answer_headers, error = None, dict[str, str](), ""
            body = content if isinstance(content, bytes) else content()
            try:
                answer = await self._client.post(url, content=body, headers=headers, timeout=tries.begin())
                status, answer_headers = answer.status_code, answer.headers
            except self._httpx.TransportError as failed:
                error = f"{url}: no answer after {tries.count} tries: {failed!r}"
            pause = tries.pause_after(status, answer_headers) if status != 200 else None
            if pause is None:
                if status is None:
                    raise ServiceError(error)
                return self._calls.read(status, answer_headers, answer.content, kind)
            await asyncio.sleep(pause)
