"""The bodies of requests: read within limits, and decoded as JSON or MessagePack, by content type.

Each body is bounded in size and time, and all that a worker holds in size: what goes beyond is refused. A proxy waits
for clients that send slowly.

Types and bounds of values are checked while they are decoded. MessagePack can say what JSON cannot. Extensions, binary
values and keys that are no text are refused by the types of bodies; numbers that are not finite are refused here.
`candidates` alone may be binary: int64, little endian.
"""

import asyncio
import math
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from corank.core.errors import RequestError
from corank.core.types import Longs
from corank.funnel.request import MAX_CANDIDATES, Columns, GivenCandidates, NumberIds, Request
from corank_serve.http.asgi import JSON, DisconnectedError, HttpCall, HttpReply, RefusedError
from corank_serve.http.serve_settings import Limits

MAX_ITEMS = 10_000
MAX_BATCH = 32
"""Requests of a batch."""


class Items(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Items to insert or replace: `id` and all columns of each; a column that is left out is missing from then on."""

    items: Annotated[list[Columns], Meta(min_length=1, max_length=MAX_ITEMS)]

    def rows(self) -> list[dict[str, Any]]:
        """The items' columns. Raises RequestError for an item that has no id, or is given twice."""
        ids = set()
        for n, row in enumerate(self.items):
            id_ = row.get("id")
            if type(id_) not in (int, str):
                raise RequestError(f"items.{n}: needs an `id`, a whole number or text; received {id_!r}")
            if id_ in ids:
                raise RequestError(f"items.{n}: {id_!r} is there twice; give each item once")
            ids.add(id_)
        return list(self.items)


class RequestBatch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Requests that one live version answers, each decoded on its own, so that one that is invalid spoils no other."""

    requests: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH)]


T = TypeVar("T")

MAX_PARTS, MAX_OBJECTS = 250_000, 25_000
"""Values and objects of a body of JSON, by its commas and braces, those within texts included."""
MSGPACK = "application/msgpack"
MAX_MSGPACK = 1 << 20
"""Bytes of a body of MessagePack, where a value may be one byte: so it takes no longer to decode than JSON may."""
NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""How a number that is not finite begins in MessagePack. Bytes of texts and ids may look like it."""
NOT_FINITE_MARKS = (b"\xcb\x7f", b"\xcb\xff", b"\xca\x7f", b"\xca\xff")
ID_BYTES = 8
PackedIds = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES * MAX_CANDIDATES)]


class DecodedRequest(Request, frozen=True):
    """A request whose types the decoder has checked; its candidates are an array if all are whole numbers."""

    def __post_init__(self) -> None:
        if type(ids := self.candidates) is list:
            try:
                packed = struct.pack(f"{len(ids)}q", *ids)
            except struct.error:
                return
            self._keep_numbers(np.frombuffer(packed, dtype=np.int64))

    def _keep_numbers(self, numbers: Longs) -> None:
        msgspec.structs.force_setattr(self, "candidates", NumberIds(numbers))


class PackedRequest(DecodedRequest, frozen=True):
    """A request whose candidates may have come as bytes."""

    candidates: GivenCandidates | PackedIds | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Raise RequestError if the bytes are no whole numbers of 8 bytes."""
        if not isinstance(packed := self.candidates, bytes):
            super().__post_init__()
            return
        if len(packed) % ID_BYTES:
            raise RequestError(
                f"body: candidates: expected int64 of {ID_BYTES} bytes each; received {len(packed):,} bytes"
            )
        self._keep_numbers(np.frombuffer(packed, dtype="<i8"))


class Codec(ABC):
    """Decodes bodies of one content type, and encodes answers."""

    content_type: ClassVar[str]
    encode: Callable[[Any], bytes]
    _make_decoder: Callable[[Any], Any]
    _request: type[Request]
    """What a request is decoded as."""

    def __init__(self) -> None:
        self._decoder: Callable[[Any], Any] = cache(self._make_decoder)

    @abstractmethod
    def check(self, body: bytes) -> None:
        """Raise RequestError or RefusedError for a whole body that takes too long to decode."""

    def decode(self, part: bytes | msgspec.Raw, kind: type[T]) -> T:
        """Decode a body, or a part of one. Raises RequestError, which names the field."""
        try:
            value: T = self._decoder(self._request if kind is Request else kind).decode(part)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise RequestError(f"body: {error}") from None
        return value

    def decode_whole(self, body: bytes, kind: type[T]) -> T:
        """Decode a body. Raises RequestError, which names the field; RefusedError if it is too large."""
        self.check(body)
        return self.decode(body, kind)


class JsonCodec(Codec):
    """JSON."""

    content_type, encode = JSON, staticmethod(msgspec.json.encode)
    _make_decoder, _request = msgspec.json.Decoder, DecodedRequest

    def check(self, body: bytes) -> None:
        """As `Codec.check`: a count is a hundred times as fast as to decode millions of values and then refuse them."""
        for mark, most, what in ((b",", MAX_PARTS, "values"), (b"{", MAX_OBJECTS, "objects")):
            # so many marks need as many bytes
            if len(body) > most and (count := body.count(mark)) > most:
                raise RequestError(f"body: expected {most:,} {what} or fewer; received {count:,}")


class MsgpackCodec(Codec):
    """MessagePack."""

    content_type, encode = MSGPACK, staticmethod(msgspec.msgpack.encode)
    _make_decoder, _request = msgspec.msgpack.Decoder, PackedRequest

    def check(self, body: bytes) -> None:
        """As `Codec.check`."""
        if len(body) > MAX_MSGPACK:
            raise RefusedError(
                413, f"a body of {MSGPACK} has {MAX_MSGPACK:,} bytes at most; send JSON, or less"
            )

    def decode(self, part: bytes | msgspec.Raw, kind: type[T]) -> T:
        """As `Codec.decode`."""
        decoded = super().decode(part, kind)
        if isinstance(decoded, Request | Items):  # parts of other types are decoded again, as one of these
            _refuse_not_finite(bytes(part), decoded)
        return decoded


def _refuse_not_finite(part: bytes, decoded: Any) -> None:
    """Raise RequestError if a number of what was decoded is not finite. Marks are found faster than a pattern."""
    if any(mark in part for mark in NOT_FINITE_MARKS) and NOT_FINITE.search(part) is not None:
        for field in _not_finite(msgspec.to_builtins(decoded, enc_hook=lambda ids: None), ""):
            raise RequestError(f"body: expected finite numbers; {field} is none")


def _not_finite(value: Any, field: str) -> Iterator[str]:
    """The fields that hold numbers which are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield field.removeprefix(".")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _not_finite(part, f"{field}.{key}")
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from _not_finite(part, f"{field}.{n}")


JSON_CODEC: Codec = JsonCodec()
MSGPACK_CODEC: Codec = MsgpackCodec()
CODECS: dict[str, Codec] = {JSON: JSON_CODEC, MSGPACK: MSGPACK_CODEC}
"""By content type."""


def _media_type(call: HttpCall) -> str:
    """The content type of a request's body, without its parameters."""
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()


def body_codec(call: HttpCall) -> Codec:
    """The codec of a request's body. Raises RefusedError for another type, or none.

    A page of another site cannot declare these types unasked.
    """
    content_type = call.headers.get("content-type", "")
    codec = CODECS.get(_media_type(call))
    if codec is None:
        received = f"; received {content_type!r}" if content_type else ""
        raise RefusedError(415, f"expected the header Content-Type: {' or '.join(CODECS)}{received}")
    return codec


def answer_codec(call: HttpCall) -> Codec:
    """The codec of the answer: what `Accept` names first; else that of the body; else JSON."""
    accept = call.headers.get("accept")
    if accept is not None and accept != "*/*":
        accept = accept.lower()
        named = [(accept.index(kind), kind) for kind in CODECS if kind in accept]
        if named:
            return CODECS[min(named)[1]]
    return CODECS.get(_media_type(call), JSON_CODEC)


def answer_to(
    call: HttpCall, value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> HttpReply:
    """A reply of a value in the type that the client takes."""
    codec = answer_codec(call)
    return HttpReply(codec.encode(value), status, headers, codec.content_type)


JSON_LINES = "application/x-ndjson"
RETRY_AFTER = "1"
"""Seconds after which a refused client should retry."""


class BodyReader:
    """Reads the bodies of a worker's requests. Each is held until its request is answered."""

    def __init__(self, limits: Limits) -> None:
        """`limits`: of a body, of all, and of the time in which one must come."""
        self._limits = limits
        self._held = 0
        self._open: set[HttpCall] = set()

    async def read(self, call: HttpCall) -> tuple[Codec, bytes]:
        """Read a body: its codec, and all of it.

        Raises RefusedError if it is of another type, too large or too slow, or too much is held.
        """
        codec = body_codec(call)
        self._expect(call)
        await self._receive(call)
        return codec, bytes(call.body)  # no copy of the only part

    async def read_line(self, call: HttpCall) -> bytes:
        """Read the first line of a body of two lines of JSON. Raises RefusedError as `read` does."""
        if (received := _media_type(call)) != JSON_LINES:
            raise RefusedError(415, f"expected the header Content-Type: {JSON_LINES}; received {received!r}")
        self._expect(call)
        await self._receive(call, until=b"\n")
        return bytes(call.body).partition(b"\n")[0]

    async def read_rest(self, call: HttpCall) -> bytes:
        """Read the second line. Raises RefusedError as `read` does."""
        await self._receive(call)
        return bytes(call.body).partition(b"\n")[2]

    def _expect(self, call: HttpCall) -> None:
        """Begin to hold a body that is yet to come. Raises RefusedError if it will be too large."""
        length = call.headers.get("content-length")
        if length is not None and (
            not length.isdecimal() or len(length) > 20 or int(length) > self._limits.body
        ):
            raise self._too_large()
        call.due = asyncio.get_running_loop().time() + self._limits.seconds
        call.release = partial(self._release, call)
        self._open.add(call)

    async def _receive(self, call: HttpCall, until: bytes | None = None) -> None:
        """Receive a body to its end, or to the part that has a mark.

        Raises DisconnectedError if the client goes before.
        """
        try:
            async with asyncio.timeout_at(call.due):
                while call.more:
                    event = await call.receive()
                    if event["type"] == "http.disconnect":
                        raise DisconnectedError
                    call.more, part = event.get("more_body", False), bytes(event.get("body", b""))
                    if part:
                        self._hold(call, part)
                    if until is not None and until in part:
                        break
        except TimeoutError:
            message = f"the body did not come within {self._limits.seconds:g} s"
            raise RefusedError(408, message, {"Connection": "close"}) from None

    def _hold(self, call: HttpCall, part: bytes) -> None:
        """Add a part to a body. Raises RefusedError if it, or all bodies together, are too large then."""
        size = len(part)
        if len(call.body) + size > self._limits.body:
            raise self._too_large()
        if self._held + size > self._limits.bodies:
            message = f"bodies of {self._limits.bodies:,} bytes are being received; try again"
            # the rest is still taken, and dropped: a proxy that sends it to a closed connection answers 502
            raise RefusedError(503, message, {"Retry-After": RETRY_AFTER}, "bodies")
        self._held += size
        if not call.body:
            call.body = part  # the only one of most bodies is not copied
        elif isinstance(call.body, bytearray):
            call.body += part
        else:
            call.body = bytearray(call.body) + part

    def _release(self, call: HttpCall) -> None:
        """End to hold a body."""
        self._open.discard(call)
        self._held -= len(call.body)
        call.body = b""

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"a body has {self._limits.body:,} bytes at most")


_Candidates: Any = GivenCandidates | None


def read_query(line: bytes) -> Request:
    """Read the first line. Raises RequestError, which names the field."""
    request = JSON_CODEC.decode_whole(line, Request)
    if request.candidates is not None or request.retrieve is not None or request.where:
        raise RequestError(
            "body: the first line has neither candidates, retrieve nor where; the second has candidates"
        )
    return request


def read_candidates(line: bytes) -> list[Any]:
    """Read the second line. Raises RequestError, which names the field."""
    candidates: list[Any] | None = JSON_CODEC.decode_whole(line, _Candidates)
    if candidates is None:
        raise RequestError("body: expected a list of candidates in the second line; received null")
    return candidates
