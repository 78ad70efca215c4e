"""Connections of a worker within limits: how many, how many bytes, how much time.

uvicorn bounds none of these for its parser in C. A client that sends or reads too slowly is cut off. When too many
connections are open, one that is slow on purpose makes way: the oldest whose request is unfinished for longer than
an honest client needs. If there is none, the one that is idle for longest makes way, of those of the address that has
the most idle ones; at last the oldest of the address that has the most unfinished ones.

The head of a response is written together with its body. uvicorn writes them apart, which takes a system call more
and, as nothing delays small packets, a packet more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from corank.serving.http.serve_settings import Limits

INTERIM = b"HTTP/1.1 1"
"""How what comes before a response begins, such as `100 Continue`."""


class ResponseWriter:
    """What uvicorn uses of a transport to write one response that has a body."""

    __slots__ = ("_began", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        """`transport`: of the connection."""
        self._transport, self._head, self._began = transport, b"", False

    def write(self, data: bytes) -> None:
        """Hold the head, which comes first; write the body, or a part of it, with the head if that is held."""
        if not self._began and not data.startswith(INTERIM):
            self._head, self._began = data, True
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection after what was written."""
        if self._head:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or closes."""
        return self._transport.is_closing()


HEAD_BYTES = 64 << 10
"""Longest head of a request: the line and its headers."""
TOO_LONG = f"the head of a request has {HEAD_BYTES:,} bytes at most"
PIPELINED = 16
"""Requests that a connection may send before the first is answered."""
SLOW = 1.0
"""Seconds after which an unfinished request is slow on purpose. A new connection may not have been read from yet."""
GRACE = 1.0
"""Seconds that the application has to refuse a late body before its connection is cut off."""
POOL = "connections"
"""Where the pool lies in the state that the application's lifespan hands to uvicorn."""


class StopParsingError(Exception):
    """Stops the parser of a connection, which is then refused."""


class ConnectionPool:
    """The open connections of a worker, by what they wait for."""

    def __init__(self, limits: Limits, count: Callable[[str], None] = lambda why: None) -> None:
        """
        Args:
            limits: of connections, of time, and of unsent answers.
            count: receives why a connection is closed for a limit: crowded, slow, large, unread or invalid.
        """
        self.limits, self.count = limits, count
        # each ordered, the oldest first
        self._unfinished: dict[BoundedProtocol, float] = {}
        """With the time since when."""
        self._busy: dict[BoundedProtocol, None] = {}
        self._unsent: dict[BoundedProtocol, int] = {}
        self._idle: dict[str, dict[BoundedProtocol, None]] = {}
        """By the client's address."""

    def __len__(self) -> int:
        """How many are open."""
        return self.active + sum(map(len, self._idle.values()))

    @property
    def active(self) -> int:
        """How many bring a request or wait for its answer."""
        return len(self._unfinished) + len(self._busy)

    def admit(self, connection: "BoundedProtocol") -> bool:
        """Count a new connection, and cut off another if too many are open; False if none can make way."""
        if len(self) >= self.limits.connections:
            oldest = next(self._expendable(), None)
            if oldest is None:
                return False
            oldest.cut_off("crowded")
        self._unfinished[connection] = time.monotonic()
        return True

    def _expendable(self) -> Iterator["BoundedProtocol"]:
        """The connections that may make way, the first one first."""
        late = time.monotonic() - SLOW
        yield from (one for one, since in self._unfinished.items() if since < late)
        yield from max(self._idle.values(), key=len, default={})
        ((most, _),) = Counter(one.address for one in self._unfinished).most_common(1) or [("", 0)]
        yield from (one for one in self._unfinished if one.address == most)

    def move(self, connection: "BoundedProtocol", unfinished: bool, busy: bool) -> None:
        """Note what a connection waits for. One that waits for what it waited for keeps its age."""
        if unfinished:
            if connection not in self._unfinished:
                self._leave(connection)
                self._unfinished[connection] = time.monotonic()
            return
        group = self._busy if busy else self._idle.setdefault(connection.address, {})
        if connection not in group:
            self._leave(connection)
            group[connection] = None

    def remove(self, connection: "BoundedProtocol") -> None:
        """Forget a connection that is closed."""
        self._leave(connection)
        self._unsent.pop(connection, None)

    def _leave(self, connection: "BoundedProtocol") -> None:
        self._unfinished.pop(connection, None)
        self._busy.pop(connection, None)
        idle = self._idle.get(connection.address)
        if idle is not None and connection in idle:
            del idle[connection]
            if not idle:
                del self._idle[connection.address]

    def hold_unsent(self, connection: "BoundedProtocol", size: int) -> None:
        """Count the bytes of an answer that its client does not read; cut off the oldest if it is too many in all."""
        self._unsent[connection] = size
        while sum(self._unsent.values()) > self.limits.bodies:
            next(iter(self._unsent)).cut_off("unread")

    def release_unsent(self, connection: "BoundedProtocol") -> None:
        """Note that an answer was sent."""
        self._unsent.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """A connection of uvicorn within the limits of its pool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pool: ConnectionPool = self.app_state[POOL]
        self._in_body = False
        self._part_bytes = 0
        """Received of the head, or of the body; of the head before the parser takes it apart."""
        self._head_bytes = 0
        """Of names and values of headers."""
        self._deadline: asyncio.TimerHandle | None = None
        self._send_deadline: asyncio.TimerHandle | None = None

    # What asyncio calls

    @property
    def address(self) -> str:
        """Of the client."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a new connection, or refuse it with 503."""
        super().connection_made(transport)
        if self.pool.admit(self):
            self._set_deadline()
        else:
            self._refuse(
                "crowded", 503, f"{len(self.pool):,} connections are open; try again", b"retry-after: 1\r\n"
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place of a connection that has ended."""
        super().connection_lost(exc)
        self.pool.remove(self)
        self._clear_deadline()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; refuse what is larger than its limit."""
        if self.transport.is_closing():
            return
        self._part_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_body and self._part_bytes > HEAD_BYTES:
            self._refuse("large", 431, TOO_LONG)
        elif self._in_body and self._part_bytes > HEAD_BYTES + 2 * self.pool.limits.body:
            self.cut_off("large")  # the application has refused the body, or its chunks are tiny
        else:
            self._update()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read its answer."""
        super().pause_writing()
        if self._send_deadline is None:
            self._send_deadline = self.loop.call_later(self.pool.limits.seconds, self.cut_off, "unread")
            self.pool.hold_unsent(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """End to wait."""
        super().resume_writing()
        self.pool.release_unsent(self)
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin the head of a request."""
        if len(self.pipeline) >= PIPELINED:
            raise StopParsingError
        self._head_bytes, self._part_bytes = 0, max(self._part_bytes, 1)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count a part of the request's line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; the trailers of a body count, too."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._clear_deadline()
        self._in_body, self._part_bytes = True, 0
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose response has no body
            self.cycle.transport = ResponseWriter(self.transport)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """End a request."""
        self._clear_deadline()
        self._in_body, self._part_bytes = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused."""
        if self._head_bytes > HEAD_BYTES:
            self._refuse("large", 431, TOO_LONG)
        else:
            self._refuse("invalid", 400, "this is no valid HTTP/1.1 request")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise StopParsingError

    # What the application calls, by uvicorn

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of the body that the application did not read."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._update()

    def cut_off(self, why: str) -> None:
        """Close the connection at once, whatever was not sent."""
        self.pool.count(why)
        self.pool.remove(self)
        self._clear_deadline()
        self.transport.abort()

    def _update(self) -> None:
        """Tell the pool what this connection waits for, and bound the time of it."""
        unfinished = self._in_body or self._part_bytes > 0
        busy = self.cycle is not None and not self.cycle.response_complete
        self.pool.move(self, unfinished, busy)
        if unfinished:
            self._set_deadline()
        elif not busy and self.timeout_keep_alive_task is None:
            # a body was received to its end after its answer
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _set_deadline(self) -> None:
        if self._deadline is None:
            seconds = self.pool.limits.seconds + (GRACE if self._in_body else 0.0)
            self._deadline = self.loop.call_later(seconds, self._expire)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if self._in_body or self._part_bytes == 0:
            self.cut_off("slow")
        else:
            self._refuse("slow", 408, f"the head did not come within {self.pool.limits.seconds:g} s")

    def _refuse(self, why: str, status: int, error: str, headers: bytes = b"") -> None:
        """Answer without the application, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cut_off(why)  # another answer is under way
            return
        self.pool.count(why)
        body = msgspec.json.encode({"error": error})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + headers + head + b"\r\n" + body)
        self.transport.close()
