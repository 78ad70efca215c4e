"""The table of paths: an ASGI application that hands each request to its endpoint, with nothing between.

A framework's router and middleware take as long as a fifth of a request.
"""

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from corank.serving.http.transport.call import AsgiReceive, AsgiScope, AsgiSend, HttpCall
from corank.serving.http.transport.reply import HttpReply, error_reply

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
        self._table |= {
            ("HEAD", path): handler for (method, path), handler in table.items() if method == "GET"
        }
        self._methods: dict[str, list[str]] = {}
        for method, path in self._table:
            self._methods.setdefault(path, []).append(method)
        self.lifespan, self._observers = lifespan, tuple(observers)

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._run_lifespan(scope, receive, send)
            return
        began, method = time.perf_counter(), scope["method"]
        handler, call = self._table.get((method, scope["path"])), HttpCall(scope, receive)
        reply = self._refuse(scope["path"]) if handler is None else await handler(call)
        for observe in self._observers:
            observe(call, reply, began)
        await reply.send(send, method != "HEAD")

    def _refuse(self, path: str) -> HttpReply:
        methods = self._methods.get(path)
        if methods is None:
            return error_reply("there is no such path; GET /openapi.json lists them", 404)
        allowed = ", ".join(sorted(methods))
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
