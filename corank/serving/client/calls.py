"""The part that both clients share: requests as bytes, and answers as types or errors."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from corank.core.errors import RequestError, ServiceError
from corank.core.types import Longs
from corank.features.vocabulary import as_int64
from corank.serving.client.answers import BatchAnswer, BatchPart, ErrorAnswer, RankAnswer
from corank.serving.funnel.request import Request
from corank.serving.http.transport.body import JSON_LINES
from corank.serving.http.transport.codec import CODECS, JSON_CODEC, MSGPACK_CODEC, Codec

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
