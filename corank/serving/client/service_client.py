"""A client of a service, which waits for its answers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from corank.core.errors import RequestError, ServiceError
from corank.core.extras import require
from corank.serving.client.answers import BatchAnswer, RankAnswer
from corank.serving.client.calls import LINES, Asked, ServiceCalls
from corank.serving.client.retries import RetryPolicy, Tries

T = TypeVar("T")


class ServiceClient:
    """Ranks by a service. Threads may share it; connections are kept open between calls.

    Example:
        >>> with ServiceClient("http://127.0.0.1:8000", packed=True) as client:  # doctest: +SKIP
        ...     client.rank({"user": {"id": 60}, "candidates": [1339, 1242]}).items[0].id
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
            options: of `httpx2.Client`, such as `verify` or `limits`.

        Raises MissingExtraError without the extra `client`.
        """
        self._calls, self._policy = ServiceCalls(url, token, packed), policy or RetryPolicy()
        self._httpx = require("client", "httpx2", "ServiceClient")
        self._client = self._httpx.Client(headers=self._calls.headers, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def rank(self, request: Asked) -> RankAnswer:
        """Rank the candidates of a request.

        Args:
            request: to rank.

        Raises:
            RequestError: the service refuses the request.
            ServiceError: it refuses the client, or does not answer in time, however often it is asked.
        """
        return self._post("/rank", self._calls.encode(request), RankAnswer)

    def rank_ahead(self, query: Asked, retrieve: Callable[[], Any]) -> RankAnswer:
        """Rank a request whose candidates are still to be found: the service reads its query meanwhile.

        Args:
            query: a request without candidates.
            retrieve: finds them, and is called once: a list, or an array of int64.

        Raises as `rank`, and what `retrieve` raises.
        """
        first, candidate_lines = self._calls.encode_query(query), list[bytes]()

        def lines() -> Iterator[bytes]:
            yield first
            if not candidate_lines:
                candidate_lines.append(self._calls.encode_candidates(retrieve()))
            yield candidate_lines[0]

        return self._post("/rank/ahead", lines, RankAnswer, LINES)

    def rank_batch(self, requests: Sequence[Asked]) -> list[RankAnswer | RequestError | ServiceError]:
        """Rank several requests by one version.

        Returns:
            The answers in order; errors in the places of the requests that are refused.

        Raises as `rank`, if the whole batch is refused.
        """
        body = self._calls.encode_batch(requests)
        return self._calls.read_batch(self._post("/rank/batch", body, BatchAnswer), len(requests))

    def _post(
        self,
        path: str,
        content: bytes | Callable[[], Iterator[bytes]],
        kind: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        tries, url = Tries(self._policy), self._calls.url + path
        while True:
            status, answer_headers, error = None, dict[str, str](), ""
            body = content if isinstance(content, bytes) else content()
            try:
                answer = self._client.post(url, content=body, headers=headers, timeout=tries.begin())
                status, answer_headers = answer.status_code, answer.headers
            except self._httpx.TransportError as failed:
                error = f"{url}: no answer after {tries.count} tries: {failed!r}"
            pause = tries.pause_after(status, answer_headers) if status != 200 else None
            if pause is None:
                if status is None:
                    raise ServiceError(error)
                return self._calls.read(status, answer_headers, answer.content, kind)
            time.sleep(pause)
