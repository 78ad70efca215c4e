"""JSON and MessagePack: the same bodies and answers, chosen by content type.

MessagePack can say what JSON cannot. Extensions, binary values and keys that are no text are refused by the types of
bodies; numbers that are not finite are refused here. `candidates` alone may be binary: int64, little endian.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Protocol, TypeVar, cast

import msgspec
import numpy as np
from msgspec import Meta

from corank.core.errors import RequestError
from corank.serving.funnel.request import MAX_CANDIDATES, GivenCandidates, NumberIds, Request
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.reply import JSON, HttpReply, RefusedError
from corank.serving.http.transport.schemas import Items

T = TypeVar("T")

MAX_PARTS, MAX_OBJECTS = 250_000, 25_000
"""Values and objects of a body of JSON, by its commas and braces, those within texts included."""
MSGPACK = "application/msgpack"
MAX_MSGPACK = 1 << 20
"""Bytes of a body of MessagePack, where a value may be one byte: so it takes no longer to decode than JSON may."""
NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""How a number that is not finite begins in MessagePack. Bytes of a text may look like it."""
NOT_FINITE_MARKS = (b"\xcb\x7f", b"\xcb\xff", b"\xca\x7f", b"\xca\xff")
CANDIDATES_KEY = b"\xaacandidates"
"""The key as MessagePack has it; a head of 2, 3 or 5 bytes is before the bytes themselves."""
ID_BYTES = 8
PackedIds = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES * MAX_CANDIDATES)]


class Codec(Protocol):
    """Decodes bodies of one content type, and encodes answers."""

    content_type: str

    def check(self, body: bytes) -> None:
        """Raise RequestError or RefusedError for a whole body that takes too long to decode."""

    def decode(self, part: bytes | msgspec.Raw, kind: type[T]) -> T:
        """Decode a body, or a part of one. Raises RequestError, which names the field."""

    def encode(self, value: Any) -> bytes:
        """Encode an answer."""


class JsonCodec:
    """JSON."""

    content_type = JSON
    encode = staticmethod(msgspec.json.encode)

    def check(self, body: bytes) -> None:
        """As `Codec.check`: a count is a hundred times as fast as to decode millions of values and then refuse them."""
        for mark, most, what in ((b",", MAX_PARTS, "values"), (b"{", MAX_OBJECTS, "objects")):
            # so many marks need as many bytes
            if len(body) > most and (count := body.count(mark)) > most:
                raise RequestError(f"body: expected {most:,} {what} or fewer; received {count:,}")

    def decode(self, part: bytes | msgspec.Raw, kind: type[T]) -> T:
        """As `Codec.decode`."""
        return _decode(_json_decoder, part, kind)


class MsgpackCodec:
    """MessagePack."""

    content_type = MSGPACK
    encode = staticmethod(msgspec.msgpack.encode)

    def check(self, body: bytes) -> None:
        """As `Codec.check`."""
        if len(body) > MAX_MSGPACK:
            raise RefusedError(
                413, f"a body of {MSGPACK} has {MAX_MSGPACK:,} bytes at most; send JSON, or less"
            )

    def decode(self, part: bytes | msgspec.Raw, kind: type[T]) -> T:
        """As `Codec.decode`."""
        if kind is Request:
            packed = _decode(_msgpack_decoder, part, PackedRequest)
            _refuse_not_finite(_without_ids(bytes(part), packed), packed)
            return cast(T, packed)
        decoded = _decode(_msgpack_decoder, part, kind)
        if kind is Items:  # parts of other types are decoded again, as one of these
            _refuse_not_finite(bytes(part), decoded)
        return decoded


def _decode(decoder: Any, part: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        value: T = decoder(kind).decode(part)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"body: {error}") from None
    return value


_json_decoder, _msgpack_decoder = cache(msgspec.json.Decoder), cache(msgspec.msgpack.Decoder)


class PackedRequest(Request, frozen=True):
    """A request whose candidates may have come as bytes."""

    candidates: GivenCandidates | PackedIds | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Raise RequestError if the bytes are no whole numbers of 8 bytes."""
        if isinstance(packed := self.candidates, bytes):
            if len(packed) % ID_BYTES:
                raise RequestError(
                    f"body: candidates: expected int64 of {ID_BYTES} bytes each; received {len(packed):,} bytes"
                )
            numbers = NumberIds(np.frombuffer(packed, dtype="<i8"))
            msgspec.structs.force_setattr(self, "candidates", numbers)
        super().__post_init__()


def _without_ids(part: bytes, request: Request) -> bytes:
    """The encoding of a request without its candidates' bytes, any of which may look like the mark of a number.

    They are where the key is, for which a search takes a tenth of the time that one for them takes. If the same bytes
    are in another place, too, one of both is left.
    """
    ids: Any = request.candidates
    if isinstance(ids, NumberIds):
        size = ids.numbers.nbytes
        begin = (
            part.find(CANDIDATES_KEY)
            + len(CANDIDATES_KEY)
            + (2 if size < 1 << 8 else 3 if size < 1 << 16 else 5)
        )
        if part[begin : begin + size] == ids.numbers.tobytes():
            return part[:begin] + part[begin + size :]
    return part


def _refuse_not_finite(part: bytes, decoded: Any) -> None:
    """Raise RequestError if a number of what was decoded is not finite. Marks are found faster than a pattern."""
    if any(mark in part for mark in NOT_FINITE_MARKS) and NOT_FINITE.search(part) is not None:
        for field in _not_finite(msgspec.to_builtins(decoded, enc_hook=list), ""):
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


JSON_CODEC, MSGPACK_CODEC = JsonCodec(), MsgpackCodec()
CODECS: dict[str, Codec] = {JSON: JSON_CODEC, MSGPACK: MSGPACK_CODEC}
"""By content type."""


def body_codec(call: HttpCall) -> Codec:
    """The codec of a request's body. Raises RefusedError for another type, or none.

    A page of another site cannot declare these types unasked.
    """
    content_type = call.header(b"content-type") or ""
    codec = CODECS.get(content_type) or CODECS.get(content_type.partition(";")[0].strip().lower())
    if codec is None:
        received = f"; received {content_type!r}" if content_type else ""
        raise RefusedError(415, f"expected the header Content-Type: {' or '.join(CODECS)}{received}")
    return codec


def answer_codec(call: HttpCall) -> Codec:
    """The codec of the answer: what `Accept` names first; else that of the body; else JSON."""
    accept = call.header(b"accept")
    if accept is not None and accept != "*/*":
        accept = accept.lower()
        named = [(accept.index(kind), kind) for kind in CODECS if kind in accept]
        if named:
            return CODECS[min(named)[1]]
    return CODECS.get((call.header(b"content-type") or "").partition(";")[0].strip().lower(), JSON_CODEC)


def answer_to(
    call: HttpCall, value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> HttpReply:
    """A reply of a value in the type that the client takes."""
    codec = answer_codec(call)
    return HttpReply(codec.encode(value), status, headers, codec.content_type)
