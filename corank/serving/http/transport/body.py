"""Bodies read within limits: each in size and time, and all that a worker holds in size.

If the bodies in all would take more, the oldest unfinished one is given up: an honest client sends a body within
milliseconds, so that the oldest is one that comes slowly on purpose.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

from corank.serving.http.serve_settings import Limits
from corank.serving.http.transport.call import HttpCall
from corank.serving.http.transport.codec import JSON_CODEC, Codec, body_codec
from corank.serving.http.transport.reply import RefusedError

T = TypeVar("T")

JSON_LINES = "application/x-ndjson"
RETRY_AFTER = "1"
"""Seconds after which a refused client should retry."""
CLOSE = {"Connection": "close"}
"""Headers of the answer to a body that is not read to the end."""


@dataclass(frozen=True)
class BodyLines:
    """The first line of a body, and what waits for the second one."""

    first: bytes
    second: Callable[[], Awaitable[bytes]]
    """Raises RefusedError as `BodyReader.read` does."""


class ReceivedBody:
    """A body, as far as it has come. It counts as held until its block ends."""

    __slots__ = ("_reader", "call", "codec", "content", "due", "given_up", "timeout")

    def __init__(self, reader: "BodyReader", call: HttpCall, codec: Codec, due: float) -> None:
        """
        Args:
            reader: counts it.
            call: the request that it is of.
            codec: of its content type.
            due: when it must have come, by the clock of the event loop.
        """
        self._reader, self.call, self.codec, self.due = reader, call, codec, due
        self.timeout: asyncio.Timeout | None = None
        """While a part of it is waited for."""
        self.content: bytes | bytearray = b""
        self.given_up = False

    def append(self, part: bytes) -> None:
        """Add a part. The only part of a body, as most have, is not copied."""
        if not self.content:
            self.content = part
            return
        if type(self.content) is bytes:
            self.content = bytearray(self.content)
        self.content += part

    @property
    def whole(self) -> bytes:
        """All of a body that has come to its end."""
        return bytes(self.content)  # no copy of the only part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._reader.release(self)

    def decode(self, kind: type[T]) -> T:
        """Decode a body that has come to its end.

        Raises RequestError, which names the field; RefusedError if it is too large for its codec.
        """
        whole = self.whole
        self.codec.check(whole)
        return self.codec.decode(whole, kind)


class BodyReader:
    """Reads the bodies of a worker's requests."""

    def __init__(self, limits: Limits) -> None:
        """`limits`: of a body, of all, and of the time in which one must come."""
        self._limits = limits
        self._held = 0
        self._unfinished: dict[ReceivedBody, None] = {}  # the oldest first

    @property
    def is_idle(self) -> bool:
        """Whether no request with a body is being received or answered."""
        return not self._unfinished and not self._held

    async def read(self, call: HttpCall) -> ReceivedBody:
        """Read a body, for a `with` block.

        Raises RefusedError if it is of another type, too large or too slow, or too much is held.
        """
        body = self._expect(call, body_codec(call))
        try:
            await self._receive(body)
        except BaseException:
            self.release(body)
            raise
        del self._unfinished[body]
        return body

    @asynccontextmanager
    async def read_lines(self, call: HttpCall) -> AsyncIterator["BodyLines"]:
        """Read the first line of a body of two lines of JSON; the block may wait for the second one.

        Raises RefusedError as `read` does.
        """
        content_type = call.header(b"content-type") or ""
        if content_type.partition(";")[0].strip().lower() != JSON_LINES:
            raise RefusedError(
                415, f"expected the header Content-Type: {JSON_LINES}; received {content_type!r}"
            )
        with self._expect(call, JSON_CODEC) as body:
            await self._receive(body, until=b"\n")
            first, end, _ = body.whole.partition(b"\n")

            async def read_second() -> bytes:
                await self._receive(body)
                self._unfinished.pop(body, None)
                return body.whole[len(first) + len(end) :]

            yield BodyLines(first, read_second)

    def _expect(self, call: HttpCall, codec: Codec) -> ReceivedBody:
        """Begin to hold a body that is yet to come. Raises RefusedError if it will be too large."""
        length = call.header(b"content-length")
        if length is not None and (
            not length.isdecimal() or len(length) > 20 or int(length) > self._limits.body
        ):
            raise self._too_large()
        body = ReceivedBody(self, call, codec, asyncio.get_running_loop().time() + self._limits.seconds)
        self._unfinished[body] = None
        return body

    async def _receive(self, body: ReceivedBody, until: bytes | None = None) -> None:
        """Receive a body to its end, or to the part that has a mark."""
        if body.given_up:
            raise self._too_much()
        try:
            async with asyncio.timeout_at(body.due) as body.timeout:
                while (part := await body.call.next_part()) is not None:
                    if len(body.content) + len(part) > self._limits.body:
                        raise self._too_large()
                    self._make_room(body, len(part))
                    self._held += len(part)
                    body.append(part)
                    if until is not None and until in part:
                        break
        except TimeoutError:
            if body.given_up:
                raise self._too_much() from None
            message = f"the body did not come within {self._limits.seconds:g} s"
            raise RefusedError(408, message, CLOSE) from None
        finally:
            body.timeout = None

    def _make_room(self, body: ReceivedBody, size: int) -> None:
        """Give up the oldest unfinished bodies until `size` more bytes fit; raise RefusedError if it is this one."""
        while self._held + size > self._limits.bodies or body.given_up:
            oldest = next(iter(self._unfinished), body)
            if oldest is body or body.given_up:
                raise self._too_much()
            self.release(oldest)
            oldest.given_up = True
            if oldest.timeout is not None:
                oldest.timeout.reschedule(asyncio.get_running_loop().time())

    def release(self, body: ReceivedBody) -> None:
        """End to hold a body."""
        self._unfinished.pop(body, None)
        self._held -= len(body.content)
        body.content = b""

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"a body has {self._limits.body:,} bytes at most")

    def _too_much(self) -> RefusedError:
        message = f"bodies of {self._limits.bodies:,} bytes are being received; try again"
        return RefusedError(503, message, CLOSE | {"Retry-After": RETRY_AFTER}, "bodies")
