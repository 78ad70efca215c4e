"""Calls a service of corank from Python: `ServiceClient`, and `AsyncServiceClient` for asyncio.

Fields of an answer that a later version adds are ignored. A ranking changes nothing, so that a call may be tried again.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import numpy as np

from corank.core.errors import RequestError, ServiceError
from corank.core.lazy import require
from corank.core.types import Longs
from corank.features.encoding import as_int64
from corank.funnel.request import RankAnswer, RankedItem, Request
from corank_serve.http.body import CODECS, JSON_CODEC, JSON_LINES, MSGPACK_CODEC, Codec


class BatchPart(RankAnswer, frozen=True):
    """A part of the answer to a batch: an answer, or an error."""

    error: str | None = None
    status: int = 200


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answer to a batch."""

    answers: list[BatchPart]


T = TypeVar("T")
Asked = Request | Mapping[str, Any]
"""A request, or a mapping of its fields, whose `candidates` may be an array of int64."""
LINES = {"Content-Type": JSON_LINES}
OF_REQUEST = frozenset({400, 413, 415})
"""Statuses that say that the request is wrong."""


AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may be answered."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, how soon and for how long a call is tried."""

    attempts: int = 3
    timeout: float = 1.0
    """Seconds for one try."""
    deadline: float = 2.0
    """Seconds for all tries and the pauses between them."""
    pause: float = 0.05
    """Seconds before the second try, doubled with each more, less a random part; `Retry-After` asks for longer."""

    def __post_init__(self) -> None:
        for name in ("attempts", "timeout", "deadline", "pause"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0; received {getattr(self, name)!r}")


class Call:
    """The tries of one call."""

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        """Begin a call, whose deadline counts from now."""
        self._url, self._policy = url, policy
        self._count, self._due = 0, time.monotonic() + policy.deadline

    def begin(self) -> float:
        """Begin a try, and return its timeout in seconds."""
        self._count += 1
        return max(min(self._policy.timeout, self._due - time.monotonic()), 1e-3)

    def pause(self, answer: Any) -> float | None:
        """Seconds to wait before the next try; None if an answer of `httpx2` is final.

        Raises ServiceError if there is to be no other try after an error of the transport, given as the answer.
        """
        failed = isinstance(answer, Exception)
        if self._count < self._policy.attempts and (failed or answer.status_code in AGAIN):
            pause: float = self._policy.pause * 2 ** (self._count - 1) * random.uniform(0.5, 1.0)
            asked = None if failed else parse_retry_after(answer.headers.get("Retry-After"))
            pause = pause if asked is None else max(pause, asked)
            if pause < self._due - time.monotonic():
                return pause
        if failed:
            raise ServiceError(f"{self._url}: no answer after {self._count} tries: {answer!r}")
        return None


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that a header `Retry-After` asks to wait, by a number or a date; None if it says nothing.

    Example:
        >>> parse_retry_after("2"), parse_retry_after("soon"), parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT")
        (2.0, None, 0.0)
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class _Client:
    """What both clients share: requests as bytes, answers as types or errors."""

    _transport: ClassVar[str]
    """The client of `httpx2` that calls the service."""

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
            url: of the service, such as `http://rank.example:8000`.
            token: of the client, if the service asks for one.
            packed: whether to speak MessagePack; JSON otherwise.
            policy: timeouts and retries.
            options: of `httpx2.Client`, or `httpx2.AsyncClient`, such as `verify` or `limits`.

        Raises MissingExtraError without the extra `client`.
        """
        self._url, self._policy = url.rstrip("/"), policy or RetryPolicy()
        self._codec: Codec = MSGPACK_CODEC if packed else JSON_CODEC
        headers = {"Content-Type": self._codec.content_type, "Accept": self._codec.content_type}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        httpx = require("httpx2", type(self).__name__)
        self._failure: type[Exception] = httpx.TransportError
        self._client = getattr(httpx, self._transport)(headers=headers, **options)

    def _encode_query(self, query: Asked) -> bytes:
        """The first line of a body: a request without candidates. Raises RequestError."""
        fields = self._fields(query)
        if fields.get("candidates") is not None:
            raise RequestError("candidates: are found by `retrieve`; leave them out of the query")
        return self._encode(fields, JSON_CODEC) + b"\n"

    def _encode_candidates(self, given: Any) -> bytes:
        """The second line. Raises RequestError."""
        return self._encode(self._candidates(given, JSON_CODEC), JSON_CODEC)

    def _encode_batch(self, requests: Iterable[Asked]) -> bytes:
        return self._encode({"requests": [self._fields(request) for request in requests]})

    def _encode(self, body: Any, codec: Codec | None = None) -> bytes:
        try:
            return (codec or self._codec).encode(body)
        except (TypeError, OverflowError, ValueError) as error:
            raise RequestError(f"request: {error}") from None

    def _fields(self, request: Asked) -> dict[str, Any]:
        if isinstance(request, Request):
            fields = msgspec.structs.asdict(request)
            defaults = msgspec.structs.asdict(Request(user={}))
            fields = {
                name: value for name, value in fields.items() if name == "user" or value != defaults[name]
            }
        else:
            fields = dict(request)
        if fields.get("candidates") is not None:
            fields["candidates"] = self._candidates(fields["candidates"], self._codec)
        return fields

    @staticmethod
    def _candidates(ids: Any, codec: Codec) -> Any:
        """Candidates as the encoding has them: of MessagePack bytes, if they are whole numbers."""
        numbers: Longs | None = None
        if isinstance(ids, np.ndarray):
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise RequestError(
                    f"candidates: expected an array of whole numbers; received {ids.dtype} of shape {ids.shape}"
                )
            numbers = ids.astype(np.int64)
        elif codec is MSGPACK_CODEC and isinstance(ids, list):
            numbers = as_int64(ids)
        if numbers is None or not len(numbers):
            return ids if numbers is None else []
        return numbers.astype("<i8").tobytes() if codec is MSGPACK_CODEC else numbers.tolist()

    def _read(self, answer: Any, kind: type[T]) -> T:
        """The answer as a type. Raises RequestError if the request is refused, ServiceError for another status."""
        status, content = answer.status_code, answer.content
        codec = CODECS.get(answer.headers.get("Content-Type", "").partition(";")[0], JSON_CODEC)
        if status == 200:
            try:
                return codec.decode(content, kind)
            except RequestError as error:
                raise ServiceError(f"{self._url}: the answer cannot be read: {error}", status) from None
        try:
            said = str(codec.decode(content, dict).get("error", ""))
        except RequestError:
            said = content[:200].decode(errors="replace")
        raise self._to_error(status, said)

    def _to_error(self, status: int, error: str) -> RequestError | ServiceError:
        """The error of a status and a message."""
        if status in OF_REQUEST:
            return RequestError(error)
        return ServiceError(f"{self._url}: {status}: {error}", status)

    def _read_batch(self, answer: BatchAnswer, count: int) -> list[RankAnswer | RequestError | ServiceError]:
        """The answers to a batch, errors in the places of the requests that were refused."""
        if len(answer.answers) != count:
            raise ServiceError(f"{self._url}: expected {count} answers; received {len(answer.answers)}", 200)
        return [self._part(part) for part in answer.answers]

    def _part(self, part: BatchPart) -> RankAnswer | RequestError | ServiceError:
        if part.error is not None:
            return self._to_error(part.status, part.error)
        return RankAnswer(*(getattr(part, name) for name in RankAnswer.__struct_fields__))


class ServiceClient(_Client):
    """Ranks by a service. Threads may share it; connections are kept open between calls.

    Example:
        >>> with ServiceClient("http://127.0.0.1:8000", packed=True) as client:  # doctest: +SKIP
        ...     client.rank({"user": {"id": 60}, "candidates": [1339, 1242]}).items[0].id
        1242
    """

    _transport = "Client"

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
        return self._post("/rank", self._encode(self._fields(request)), RankAnswer)

    def rank_ahead(self, query: Asked, retrieve: Callable[[], Any]) -> RankAnswer:
        """Rank a request whose candidates are still to be found: the service reads its query meanwhile.

        Args:
            query: a request without candidates.
            retrieve: finds them, and is called once: a list, or an array of int64.

        Raises as `rank`, and what `retrieve` raises.
        """
        first, candidate_lines = self._encode_query(query), list[bytes]()

        def lines() -> Iterator[bytes]:
            yield first
            if not candidate_lines:
                candidate_lines.append(self._encode_candidates(retrieve()))
            yield candidate_lines[0]

        return self._post("/rank/ahead", lines, RankAnswer, LINES)

    def rank_batch(self, requests: Sequence[Asked]) -> list[RankAnswer | RequestError | ServiceError]:
        """Rank several requests by one version.

        Returns:
            The answers in order; errors in the places of the requests that are refused.

        Raises as `rank`, if the whole batch is refused.
        """
        body = self._encode_batch(requests)
        return self._read_batch(self._post("/rank/batch", body, BatchAnswer), len(requests))

    def _post(
        self,
        path: str,
        content: bytes | Callable[[], Iterator[bytes]],
        kind: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        call = Call(self._url + path, self._policy)
        while True:
            body = content if isinstance(content, bytes) else content()
            try:
                answer: Any = self._client.post(
                    self._url + path, content=body, headers=headers, timeout=call.begin()
                )
            except self._failure as error:
                answer = error
            pause = call.pause(answer)
            if pause is None:
                return self._read(answer, kind)
            time.sleep(pause)


class AsyncServiceClient(_Client):
    """Ranks by a service. Tasks may share it; connections are kept open between calls.

    Example:
        >>> async with AsyncServiceClient("http://127.0.0.1:8000", packed=True) as client:  # doctest: +SKIP
        ...     (await client.rank({"user": {"id": 60}, "candidates": [1339, 1242]})).items[0].id
        1242
    """

    _transport = "AsyncClient"

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
        return await self._post("/rank", self._encode(self._fields(request)), RankAnswer)

    async def rank_ahead(self, query: Asked, retrieve: Callable[[], Awaitable[Any]]) -> RankAnswer:
        """Rank a request whose candidates are still to be found: the service reads its query meanwhile.

        Args:
            query: a request without candidates.
            retrieve: finds them, and is called once: a list, or an array of int64.

        Raises as `rank`, and what `retrieve` raises.
        """
        first, candidate_lines = self._encode_query(query), list[bytes]()

        async def lines() -> AsyncIterator[bytes]:
            yield first
            if not candidate_lines:
                candidate_lines.append(self._encode_candidates(await retrieve()))
            yield candidate_lines[0]

        return await self._post("/rank/ahead", lines, RankAnswer, LINES)

    async def rank_batch(self, requests: Sequence[Asked]) -> list[RankAnswer | RequestError | ServiceError]:
        """Rank several requests by one version.

        Returns:
            The answers in order; errors in the places of the requests that are refused.

        Raises as `rank`, if the whole batch is refused.
        """
        body = self._encode_batch(requests)
        return self._read_batch(await self._post("/rank/batch", body, BatchAnswer), len(requests))

    async def _post(
        self,
        path: str,
        content: bytes | Callable[[], AsyncIterator[bytes]],
        kind: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        call = Call(self._url + path, self._policy)
        while True:
            body = content if isinstance(content, bytes) else content()
            try:
                answer: Any = await self._client.post(
                    self._url + path, content=body, headers=headers, timeout=call.begin()
                )
            except self._failure as error:
                answer = error
            pause = call.pause(answer)
            if pause is None:
                return self._read(answer, kind)
            await asyncio.sleep(pause)


__all__ = ["AsyncServiceClient", "RankAnswer", "RankedItem", "RetryPolicy", "ServiceClient"]
