"""The HTTP server of one process, which ends without a lost request.

On SIGTERM or SIGINT `/readyz` turns to 503 and answers say `Connection: close`, while requests continue for a grace
time: load balancers take the process out. Then no new client is accepted, and every request that has begun is answered.
A second signal ends the process at once.
"""

import asyncio
import fcntl
import multiprocessing
import os
import socket
import termios
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from corank_serve.http.process.listener import refuse_connections
from corank_serve.http.process.worker_process import ACCEPT_SECONDS, EXIT_SECONDS, Drain, end_process_after

LINGER_SECONDS = 1.0
"""Time that an idle connection stays open, since its client may be sending."""
POLL_SECONDS = 0.02
CLOSE = (b"connection", b"close")


class DrainingServer(uvicorn.Server):
    """The HTTP server of one process."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        handshake: float,
        on_alive: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            config: of uvicorn.
            drain: begins with a signal.
            handshake: seconds in which TLS must begin.
            on_alive: of a worker of several: is called every tenth of a second. Such a worker ends with its parent,
                and leaves new connections to it.
        """
        super().__init__(config)
        self.drain, self._on_alive, self._handshake = drain, on_alive, handshake
        self._watchdog: threading.Timer | None = None
        self._told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on sockets."""
        if self.config.ssl is not None:  # uvicorn does not hand the time over
            loop = asyncio.get_running_loop()
            bounded = partial(loop.create_server, ssl_handshake_timeout=self._handshake)
            loop.create_server = bounded  # type: ignore[method-assign]
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; end at once the second time."""
        if self._told:
            os._exit(128 + sig)
        self._told = True
        self.drain.service_goes_on = False
        self._begin()

    def retire(self) -> None:
        """Begin to drain, without a grace time: another process has taken this one's place."""
        if self.drain.began is None:
            self.drain.grace, self.drain.service_goes_on = 0.0, True
            self._begin()

    def _begin(self) -> None:
        """Begin to drain; answers say from now on that their connection closes."""
        self.drain.begin()
        if CLOSE not in self.config.encoded_headers:
            self.config.encoded_headers.append(CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]

    async def on_tick(self, counter: int) -> bool:
        """Return whether the grace time is over."""
        if self._on_alive is not None:
            self._on_alive()
            parent = multiprocessing.parent_process()
            if parent is not None and os.getppid() != parent.pid:
                self.drain.grace = 0.0
                self._begin()
        await super().on_tick(counter)
        return self.drain.is_over()

    def let_process_live(self) -> None:
        """Do not end the process, which does something else after it has served."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept what has connected, answer what has begun, and end."""
        self._begin()
        self._watchdog = end_process_after(ACCEPT_SECONDS + self.drain.limit + EXIT_SECONDS)
        if self._on_alive is None:
            for listener in sockets or []:
                refuse_connections(listener)
        await asyncio.sleep(ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        end = time.monotonic() + self.drain.limit
        linger = time.monotonic() + (
            LINGER_SECONDS if self.drain.service_goes_on else min(LINGER_SECONDS, self.drain.grace)
        )
        while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < end:
            if self._on_alive is not None:
                self._on_alive()
            if time.monotonic() >= linger:
                for connection in list(self.server_state.connections):
                    _close_if_idle(connection)
            await asyncio.sleep(POLL_SECONDS)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()


def _close_if_idle(connection: Any) -> None:
    """Close a connection unless a request has begun, or lies in the socket unread."""
    assert isinstance(connection, HttpToolsProtocol)
    answered = connection.cycle is None or connection.cycle.response_complete
    begun = connection.scope is not None and (
        connection.cycle is None or connection.cycle.scope is not connection.scope
    )
    if answered and not begun and not _has_unread_bytes(connection.transport):
        connection.transport.close()


def _has_unread_bytes(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.fileno() >= 0 and any(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
