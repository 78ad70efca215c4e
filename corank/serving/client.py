"""Calls a service of corank from Python: `ServiceClient`, and `AsyncServiceClient` for asyncio.

A client of a service, which waits for its answers.

A client of a service for asyncio.

The part that both clients share: requests as bytes, and answers as types or errors.

What a service answers, as types. Fields that a later version adds are ignored.

When a call is tried again. A ranking changes nothing, so that it may be asked for any number of times.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

from corank.core.errors import RequestError, ServiceError
from corank.core.lazy import require
from corank.core.types import Longs
from corank.features.encoding import as_int64
from corank.serving.funnel.request import Request
from corank.serving.http.body import CODECS, JSON_CODEC, JSON_LINES, MSGPACK_CODEC, Codec


class RankedItem(msgspec.Struct, frozen=True):
    """An item of an answer."""

    id: int | str
    score: float
    scores: dict[str, float] = {}
    """By stage, if the request chose `scores`."""


class RankAnswer(msgspec.Struct, frozen=True):
    """The answer to a request; what the request did not choose is empty."""

    model_version: str = ""
    items_seq: int = 0
    items_id: str = ""
    stage: str = ""
    """Whose scores these are."""
    items: list[RankedItem] = []
    """What the last stage keeps, best first."""
    ids: list[int | str] = []
    unknown: list[int | str] = []
    missing: list[str] = []
    warnings: list[str] = []
    fallback: dict[str, str] | None = None
    user: str = ""
    trace: list[dict[str, Any]] = []
    microseconds: dict[str, int] = {}


class BatchPart(RankAnswer, frozen=True):
    """A part of the answer to a batch: an answer, or an error."""

    error: str | None = None
    status: int = 200


class BatchAnswer(msgspec.Struct, frozen=True):
    """The answer to a batch."""

    answers: list[BatchPart]


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The answer of a request that is refused."""

    error: str = ""


T = TypeVar("T")
Asked = Request | Mapping[str, Any]
"""A request, or a mapping of its fields, whose `candidates` may be an array of int64."""
LINES = {"Content-Type": JSON_LINES}
OF_REQUEST = frozenset({400, 413, 415})
"""Statuses that say that the request is wrong."""


class ServiceCalls:
    """Writes requests for one service, and reads its answers."""

    def __init__(self, url: str, token: str | None, packed: bool) -> None:
        """
        Args:
            url: of the service, such as `http://rank.example:8000`.
            token: of the client, if the service asks for one.
            packed: whether to speak MessagePack; JSON otherwise.
        """
        self.url = url.rstrip("/")
        self.codec: Codec = MSGPACK_CODEC if packed else JSON_CODEC
        self.headers = {"Content-Type": self.codec.content_type, "Accept": self.codec.content_type}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    def encode(self, request: Asked) -> bytes:
        """The body of a request. Raises RequestError."""
        return self._encode(self._fields(request))

    def encode_query(self, query: Asked) -> bytes:
        """The first line of a body: a request without candidates. Raises RequestError."""
        fields = self._fields(query)
        if fields.get("candidates") is not None:
            raise RequestError("candidates: are found by `retrieve`; leave them out of the query")
        return self._encode(fields, JSON_CODEC) + b"\n"

    def encode_candidates(self, given: Any) -> bytes:
        """The second line. Raises RequestError."""
        return self._encode(self._candidates(given, JSON_CODEC), JSON_CODEC)

    def encode_batch(self, requests: Iterable[Asked]) -> bytes:
        """The body of a batch. Raises RequestError."""
        return self._encode({"requests": [self._fields(request) for request in requests]})

    def _encode(self, body: Any, codec: Codec | None = None) -> bytes:
        try:
            return (codec or self.codec).encode(body)
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
            fields["candidates"] = self._candidates(fields["candidates"], self.codec)
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

    def read(self, status: int, headers: Mapping[str, str], content: bytes, kind: type[T]) -> T:
        """The answer as a type. Raises RequestError if the request is refused, ServiceError for another status."""
        codec = CODECS.get(headers.get("Content-Type", "").partition(";")[0], JSON_CODEC)
        if status == 200:
            try:
                return codec.decode(content, kind)
            except RequestError as error:
                raise ServiceError(f"{self.url}: the answer cannot be read: {error}", status) from None
        try:
            said = codec.decode(content, ErrorAnswer).error
        except RequestError:
            said = content[:200].decode(errors="replace")
        raise self.to_error(status, said)

    def to_error(self, status: int, error: str) -> RequestError | ServiceError:
        """The error of a status and a message."""
        if status in OF_REQUEST:
            return RequestError(error)
        return ServiceError(f"{self.url}: {status}: {error}", status)

    def read_batch(self, found: BatchAnswer, count: int) -> list[RankAnswer | RequestError | ServiceError]:
        """The answers to a batch, errors in the places of the requests that were refused."""
        if len(found.answers) != count:
            raise ServiceError(f"{self.url}: expected {count} answers; received {len(found.answers)}", 200)
        return [self._part(part) for part in found.answers]

    def _part(self, part: BatchPart) -> RankAnswer | RequestError | ServiceError:
        if part.error is not None:
            return self.to_error(part.status, part.error)
        return RankAnswer(*(getattr(part, name) for name in RankAnswer.__struct_fields__))


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


@dataclass
class Tries:
    """The tries of one call."""

    policy: RetryPolicy
    count: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.began + self.policy.deadline - time.monotonic()

    def begin(self) -> float:
        """Begin a try, and return its timeout in seconds."""
        self.count += 1
        return max(min(self.policy.timeout, self.left), 1e-3)

    def pause_after(self, status: int | None, headers: Mapping[str, str]) -> float | None:
        """Seconds to wait before the next try; None if there is to be none.

        Args:
            status: of the answer; None if there was none.
            headers: of the answer.
        """
        if self.count >= self.policy.attempts or (status is not None and status not in AGAIN):
            return None
        pause = self.policy.pause * 2 ** (self.count - 1) * random.uniform(0.5, 1.0)
        asked = parse_retry_after(headers.get("Retry-After"))
        if asked is not None:
            pause = max(pause, asked)
        return pause if pause < self.left else None


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


__all__ = ["AsyncServiceClient", "RankAnswer", "RankedItem", "RetryPolicy", "ServiceClient"]
