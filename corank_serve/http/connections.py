"""Connections of a worker within limits: how many are open, how large a request is, and by when it must have come.

uvicorn bounds none of these for its parser in C. What else a hostile client may do is left to a proxy: it bounds the
connections and requests of each address, and waits for slow clients in place of a worker.

The head of a response is written together with its body. uvicorn writes them apart, which takes a system call more
and, as nothing delays small packets, a packet more.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from corank_serve.http.serve_settings import Limits

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
"""Longest head of a request: the line and its headers. What comes with its end in one read is not counted."""
TOO_LONG = f"the head of a request has {HEAD_BYTES:,} bytes at most"
GRACE = 1.0
"""Seconds that the application has to refuse a late body before its connection is cut off."""
POOL = "connections"
"""Where the pool lies in the state that the application's lifespan hands to uvicorn."""


class ConnectionPool:
    """What the connections of a worker share."""

    def __init__(self, limits: Limits, count: Callable[[str], None] = lambda why: None) -> None:
        """
        Args:
            limits: of connections, of time, and of bodies.
            count: receives why a connection is closed for a limit: crowded, slow, large or invalid.
        """
        self.limits, self.count = limits, count
        self.tasks: Collection[object] = ()
        """Of the requests that wait for their answers, by uvicorn."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection of uvicorn within the limits of its pool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pool: ConnectionPool = self.app_state[POOL]
        self.pool.tasks = self.tasks
        self._in_body = False
        self._part_bytes = 0
        """Received of the head, or of the body."""
        self._deadline: asyncio.TimerHandle | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a new connection, or refuse it with 503."""
        super().connection_made(transport)
        most = self.pool.limits.connections
        if len(self.connections) > most:
            self._refuse("crowded", 503, f"{most:,} connections are open; try again", b"retry-after: 1\r\n")
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """End to wait for a request."""
        super().connection_lost(exc)
        self._clear_deadline()

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
            self._cut_off("large")  # the application has refused the body, or its chunks are tiny
        elif self._in_body or self._part_bytes:
            self._set_deadline()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin the head of a request, which may come with the end of the one before."""
        self._part_bytes = max(self._part_bytes, 1)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._in_body, self._part_bytes = True, 0
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose response has no body
            self.cycle.transport = ResponseWriter(self.transport)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """End a request."""
        self._clear_deadline()
        self._in_body, self._part_bytes = False, 0
        super().on_message_complete()
        if (
            self.cycle.response_complete
        ):  # it was refused before its body had come; uvicorn waits for no request now
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused."""
        self._refuse("invalid", 400, "this is no valid HTTP/1.1 request")

    def _set_deadline(self) -> None:
        """Bound the time in which a request must have come, its head and its body together."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.pool.limits.seconds + GRACE, self._cut_off, "slow")

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self, why: str) -> None:
        """Close the connection at once, whatever was not sent."""
        self.pool.count(why)
        self.transport.abort()

    def _refuse(self, why: str, status: int, error: str, headers: bytes = b"") -> None:
        """Answer without the application, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._cut_off(why)  # another answer is under way
            return
        self.pool.count(why)
        body = msgspec.json.encode({"error": error})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + headers + head + b"\r\n" + body)
        self.transport.close()
