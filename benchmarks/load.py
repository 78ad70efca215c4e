"""Load over HTTP: throughput of a server when saturated, and latency of its requests at a given rate.

The server runs on the first of this process's cores, the sender on the last; Linux only.
"""

import asyncio
import gc
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

CONNECTIONS = 128
"""Maximum concurrent requests of an open-loop sender."""
STARTED = 120
"""Seconds in which a server must listen."""
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
T = TypeVar("T")


def message(body: bytes, path: str = "/rank", *headers: str, content_type: str = "application/json") -> bytes:
    """A POST as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def on_core(which: int) -> Iterator[None]:
    """This thread, and what it starts, on one of the process's cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[which]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(command: Sequence[object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server on the first core, from when it listens; stopped as an operator does."""
    with on_core(0):
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + STARTED
        while not listens(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args!r}: does not listen; exit {process.returncode}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


class Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time."""

    def __init__(self) -> None:
        self._held = b""
        self.closes = False
        """Whether the server has said that it closes this connection, or has done so."""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return (await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, part: bytes) -> None:
        """Send the first part of a request, whose end is sent by `ask`."""
        self._transport.write(part)

    def ask(self, sent: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Status and body. Raises ConnectionError where the server has closed it."""
        if self.closes or self._transport.is_closing():
            raise ConnectionError("closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(sent)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, ended, body = self._held.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if ended and length and len(body) >= int(length[1]) and self._answer:
            self._held = b""
            self.closes = CLOSE.search(head) is not None
            if not self._answer.done():  # whoever asked may have been cancelled
                self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.closes = True
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("closed before it answered"))

    def close(self) -> None:
        self._transport.close()


@dataclass
class Sent:
    """Outcomes of requests."""

    due: list[float] = field(default_factory=list)
    """Of those that were answered: seconds from the first on."""
    waited: list[float] = field(default_factory=list)
    """Seconds from when they were due."""
    failed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """Of those that failed; 0 for no answer."""
    late: list[float] = field(default_factory=list)
    """Seconds by which the sender itself was late, of all: a burst that it then sends is not the server's doing."""

    def percentile(self, share: float) -> float:
        """Of the waits, ms."""
        return float(np.percentile(self.waited, share) * 1e3)


async def answers(port: int, messages: Sequence[bytes]) -> list[bytes]:
    """One after another. Raises RuntimeError for one that is refused."""
    connection = await Connection.open(port)
    bodies = []
    for sent in messages:
        status, body = await connection.ask(sent)
        if status != 200:
            raise RuntimeError(f"{status}: {body.decode()}")
        bodies.append(body)
    connection.close()
    return bodies


async def saturated(port: int, messages: Sequence[bytes], seconds: float, connections: int = 4) -> float:
    """Answers a second to connections that each ask again at once."""
    began = time.perf_counter()

    async def ask(first: int) -> int:
        connection, count = await Connection.open(port), 0
        while time.perf_counter() - began < seconds:
            status, _ = await connection.ask(messages[(first + count * connections) % len(messages)])
            assert status == 200
            count += 1
        connection.close()
        return count

    counts = await asyncio.gather(*map(ask, range(connections)))
    return sum(counts) / (time.perf_counter() - began)


async def arriving(
    port: int,
    messages: Sequence[bytes],
    rate: float,
    seconds: float,
    sent: Sent,
    read: Callable[[int, bytes], object] = lambda number, body: None,
) -> None:
    """Requests that come when they come, `rate` a second (Poisson), whether those before are answered or not.

    `read` receives the index of a message and the body of its answer.
    """
    due = arrivals(rate, seconds)
    free: asyncio.Queue[Connection] = asyncio.Queue()  # in turn, so that none is idle for long, and closed
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection.open(port))
    began = time.perf_counter()

    async def ask(number: int) -> None:
        connection = await free.get()
        try:
            if connection.closes:  # while it was idle, which its client sees
                connection = await Connection.open(port)
            status, body = await connection.ask(messages[number % len(messages)])
        except ConnectionError:
            status, connection = 0, await Connection.open(port)
        if status == 200:
            sent.due.append(due[number])
            sent.waited.append(time.perf_counter() - began - due[number])
            read(number % len(messages), body)
        else:
            sent.failed += 1
            sent.statuses[status] += 1
        free.put_nowait(connection)

    async with asyncio.TaskGroup() as asked:
        for number, moment in enumerate(due):
            await asyncio.sleep(began + moment - time.perf_counter())
            sent.late.append(time.perf_counter() - began - moment)
            asked.create_task(ask(number))
    while not free.empty():
        free.get_nowait().close()


def arrivals(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """When they come."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=round(rate * seconds))
    return np.cumsum(gaps)


@contextmanager
def yielding_soon() -> Iterator[None]:
    """Threads give the interpreter's lock up after a tenth of a millisecond."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run(sending: Coroutine[Any, Any, T]) -> T:
    """On the last core. By select(), whose time-outs, unlike epoll's, are not rounded up to a millisecond.

    A collection of cycles in the sender would make all that is due meanwhile one burst, and so would a thread beside it
    that keeps the interpreter's lock.
    """
    gc.collect()
    gc.freeze()
    with (
        on_core(-1),
        yielding_soon(),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner,
    ):
        return runner.run(sending)
