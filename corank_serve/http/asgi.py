"""The ASGI application: a request as the server hands it over, its reply, and the table of endpoints by path.

Nothing lies between: a framework's router and middleware take as long as a fifth of a request.
"""

import math
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal
from urllib.parse import parse_qs

import msgspec

from corank.funnel.ranking import Ranking

AsgiMessage = MutableMapping[str, Any]
AsgiScope = MutableMapping[str, Any]
"""The facts of a connection or a request, which the server hands over."""
AsgiReceive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]

NOBODY = "nobody"
"""Who calls without a token."""
REQUEST_ID = re.compile(r"[\w.:@/+=-]{1,64}", re.ASCII)
"""What a client may call a request."""


class DisconnectedError(Exception):
    """The client has gone before its body had come."""


def _release_nothing() -> None:
    """End to hold a body that is not read."""


class HttpCall:
    """A request: its head, and its body as it comes."""

    def __init__(self, scope: AsgiScope, receive: AsgiReceive) -> None:
        """
        Args:
            scope: of the request, from the server.
            receive: waits for a part of its body.
        """
        self.scope, self.receive = scope, receive
        self.headers: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        """By name in lower case; the first of several of a name."""
        self.more = True
        """Whether some of its body is yet to come."""
        self.body: bytes | bytearray = b""
        """Its body, as far as it has come."""
        self.due = math.inf
        """When its body must have come, by the clock of the event loop."""
        self.release: Callable[[], None] = _release_nothing
        """Ends to hold its body."""
        self.caller = NOBODY
        """The name of the token that it came with."""
        self.change: dict[str, Any] = {}
        """Facts for the audit, of one that writes."""
        self.why: str | None = None
        """Why it was refused for a limit: queue or bodies."""
        self.ranked: list[Ranking] = []
        """What it had ranked."""
        self.id: str | None = None
        """Of its line in the access log; the client may give it."""
        self.trace: str | None = None
        """Of its trace, 32 hexadecimal digits."""

    def query(self, name: str) -> str | None:
        """A parameter of the URL; the last one if there are several."""
        values = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    @property
    def request_id(self) -> str | None:
        """What the client, or a proxy, calls it; None if it does not, or by no such text."""
        given = self.headers.get("x-request-id")
        return given if given is not None and REQUEST_ID.fullmatch(given) else None

    @property
    def client(self) -> str | None:
        """Address and port of the client."""
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else None


JSON = "application/json"
LONGEST_ERROR = 2000
"""Characters of an error that are sent; a value of megabytes is not repeated to who sent it."""


class RefusedError(Exception):
    """A reply with a status other than 200."""

    def __init__(
        self, status: int, error: str, headers: dict[str, str] | None = None, why: str | None = None
    ) -> None:
        """
        Args:
            status: of the reply.
            error: what its body says.
            headers: of the reply.
            why: the limit that the request met, for the access log.
        """
        super().__init__(error)
        self.status, self.error, self.headers, self.why = status, error, headers, why


class HttpReply:
    """Status, headers and body."""

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        self.body, self.status = body, status
        self.headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", content_type.encode()),
        ]
        if headers:
            self.headers += [(n.lower().encode(), value.encode("latin-1")) for n, value in headers.items()]

    async def send(self, send: AsgiSend, with_body: bool = True) -> None:
        """Send it, or its head alone."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body if with_body else b""})


def json_reply(value: Any) -> HttpReply:
    """A reply of a value as JSON."""
    return HttpReply(msgspec.json.encode(value))


def shorten_error(error: str) -> str:
    """Cut an error to LONGEST_ERROR characters."""
    return error if len(error) <= LONGEST_ERROR else f"{error[:LONGEST_ERROR]}… ({len(error):,} characters)"


def error_reply(error: str, status: int, headers: dict[str, str] | None = None) -> HttpReply:
    """A reply of an error as JSON."""
    return HttpReply(msgspec.json.encode({"error": shorten_error(error)}), status, headers)


Method = Literal["GET", "POST"]
Handler = Callable[[HttpCall], Awaitable[HttpReply]]
Observer = Callable[[HttpCall, HttpReply, float], None]
"""Receives a request, its reply, and when its head had come, by `time.perf_counter`."""
Lifespan = Callable[[], AbstractAsyncContextManager[dict[str, Any]]]
"""What runs as long as the application does; it gives the state that the server's connections share."""


class Routes:
    """The application of a worker process."""

    def __init__(
        self,
        table: Mapping[tuple[Method, str], Handler],
        lifespan: Lifespan,
        observers: Sequence[Observer] = (),
    ) -> None:
        """
        Args:
            table: endpoints by method and path; one of GET answers HEAD, too.
            lifespan: entered before the first request and left after the last.
            observers: receive each request before its reply is sent.
        """
        self._table: dict[tuple[str, str], Handler] = dict(table.items())
        self._table |= {("HEAD", path): table[method, path] for method, path in table if method == "GET"}
        self.lifespan, self._observers = lifespan, tuple(observers)

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._run_lifespan(scope, receive, send)
            return
        began, method = time.perf_counter(), scope["method"]
        handler, call = self._table.get((method, scope["path"])), HttpCall(scope, receive)
        try:
            reply = self._refuse(scope["path"]) if handler is None else await handler(call)
        finally:
            call.release()
        for observe in self._observers:
            observe(call, reply, began)
        await reply.send(send, method != "HEAD")

    def _refuse(self, path: str) -> HttpReply:
        allowed = ", ".join(sorted(method for method, known in self._table if known == path))
        if not allowed:
            return error_reply("there is no such path; GET /openapi.json lists them", 404)
        return error_reply(f"expected the method {allowed}", 405, {"Allow": allowed})

    async def _run_lifespan(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Start and end with the server, by ASGI's lifespan protocol."""
        await receive()
        began = False
        try:
            async with self.lifespan() as state:
                scope.get("state", {}).update(state)
                await send({"type": "lifespan.startup.complete"})
                began = True
                await receive()
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            what = "shutdown" if began else "startup"
            await send({"type": f"lifespan.{what}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})
