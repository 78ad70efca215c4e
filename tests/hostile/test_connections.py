"""Clients that send too slowly or too much, and the end of a service: who was sent is answered."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from corank_serve.http.process.listener import bind_listener, refuse_connections
from tests.support.random_worlds import RICH
from tests.support.service import running_service
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

CONNECTIONS = 20
LIMITS = ["--connections", str(CONNECTIONS), "--body-mib", "1", "--bodies-mib", "4"]
BODY = MIB = 1 << 20
RANK = {"user": {}, "candidates": [1, 2]}
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A request whose answer is short."""

Service = tuple[str, psutil.Process]


def bundle() -> str:
    return str(shared_case(RICH).base / "bundle")


@contextlib.contextmanager
def serving(cache: Path, receive: float, idle: float) -> Iterator[Service]:
    seconds = ["--receive-seconds", f"{receive:g}", "--idle-seconds", f"{idle:g}"]
    with running_service(bundle(), cache, *LIMITS, *seconds) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that cuts nobody off for being slow."""
    with serving(tmp_path_factory.mktemp("cache"), PATIENCE, PATIENCE) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that soon cuts off who is slow, an honest client of a busy machine, too."""
    with serving(tmp_path_factory.mktemp("cache"), 1, 2) as running:
        yield running


def connect(url: str, source: str = "127.0.0.1") -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), PATIENCE, (source, 0))


def post(size: int, path: str = "/rank", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {size}", "", ""]).encode()


def read_all(one: socket.socket) -> bytes:
    """All bytes until the service closes the connection; TimeoutError if it does not."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while part := one.recv(1 << 16):
            content += part
    return content


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


def read_one(one: socket.socket) -> bytes:
    """One answer of a connection that stays open; what came of it if the connection is closed."""
    content = b""
    while not content.endswith(b"}") and (part := one.recv(1 << 16)):
        content += part
    return content


def send(one: socket.socket, content: bytes) -> None:
    """Send as much as the service takes before it closes the connection."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for n in range(0, len(content), 10_000):
            one.sendall(content[n : n + 10_000])


def drip(one: socket.socket, byte: bytes = b"a") -> bytes:
    """Send a byte at a time until the service closes the connection; what it said."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        one.settimeout(0.1)
        while time.monotonic() < end:
            one.send(byte)
            with contextlib.suppress(TimeoutError):
                return one.recv(1 << 16)
        raise AssertionError("the connection is held")
    return b""


def answers(service: Service) -> bool:
    """Whether an honest client gets an answer."""
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.post(f"{service[0]}/rank", json=RANK).status_code == 200
    return False


def cut_off_while(hasty: Service, sent: bytes, drips: bytes) -> int:
    """The status with which a client is cut off that sends something, and then more of it byte by byte."""
    with connect(hasty[0]) as one:
        one.sendall(sent)
        return status(drip(one, drips))


def test_a_head_or_a_body_that_comes_byte_by_byte_is_cut_off(hasty: Service) -> None:
    assert cut_off_while(hasty, b"GET /version HTTP/1.1\r\nX: ", b"a") == 0
    eventually(lambda: cut_off_while(hasty, post(BODY), b"a") == 408)
    with connect(hasty[0]) as one:
        assert read_all(one) == b""
    assert cut_off_while(hasty, b"", b"\r\n") == 0


def test_a_body_that_nobody_reads_is_cut_off(hasty: Service) -> None:
    """The request is refused before its body has come: the rest does not hold the connection."""

    def refused(size: int) -> socket.socket | None:
        one = connect(hasty[0])
        one.sendall(post(size, "/items"))
        if status(read_one(one)) == 401:
            return one
        one.close()
        return None

    with eventually(lambda: refused(1000)) as one:
        assert drip(one) == b""
    with eventually(lambda: refused(10)) as one, contextlib.suppress(BrokenPipeError):
        one.sendall(b"a" * 10)
        assert read_all(one) == b""  # idle for too long


@pytest.mark.parametrize(
    "head",
    [
        ALIVE[:-2] + b"X: " + b"a" * MIB,
        ALIVE[:-2] + b"X: a\r\n" * 100_000,
        b"GET /version?" + b"a" * MIB,
    ],
)
def test_a_head_has_a_largest_size(service: Service, head: bytes) -> None:
    with connect(service[0]) as one:
        send(one, head)
        assert status(read_all(one)) in (431, 0)  # reset, if more was on its way
    assert answers(service)


def test_trailers_and_chunks_have_a_largest_size(service: Service) -> None:
    chunked = post(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    for endless in (b"0\r\n" + b"X: a\r\n" * MIB, b"1;" + b"a" * 8 * MIB, b"1\r\na\r\n" * MIB):
        with connect(service[0]) as one:
            send(one, chunked + endless)
            assert status(read_all(one)) in (0, 408, 413, 431)
    assert answers(service)


def test_more_connections_than_allowed_are_told_to_come_again(service: Service) -> None:
    def admitted() -> socket.socket | None:
        """A connection that is answered; those of clients before may still be closing."""
        one = connect(service[0])
        one.sendall(ALIVE)
        if status(read_one(one)) == 200:
            return one
        one.close()
        return None

    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(eventually(admitted))
        with connect(service[0]) as one:
            refused = read_all(one)
        assert status(refused) == 503 and b"retry-after: 1\r\n" in refused
        assert b"20 connections are open; try again" in refused
    eventually(lambda: answers(service))


def test_unfinished_bodies_take_no_more_than_their_budget(service: Service) -> None:
    """Those beyond it are told to come again, and their connections stay: a proxy takes a reset for an error."""
    url, process = service
    assert answers(service)
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(CONNECTIONS - 2)]
        for one in connections:
            one.sendall(post(BODY) + b" " * (BODY - 1))
        held = 4  # of BODY each, by LIMITS

        def refused() -> list[socket.socket]:
            ready = select.select(connections, [], [], 0)[0]
            return ready if len(ready) >= len(connections) - held else []

        for one in eventually(refused):
            answer = read_one(one)
            assert status(answer) == 503 and b"retry-after: 1\r\n" in answer
            one.sendall(b" " + ALIVE)
            assert status(read_one(one)) == 200
        assert process.memory_info().rss - before < 40 * MIB
    eventually(lambda: answers(service))
    assert "corank_shed_total 0.0" not in httpx2.get(f"{url}/metrics").text


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    with connect(service[0]) as one:
        one.sendall(ALIVE * 9 + ALIVE[:-2] + b"Connection: close\r\n\r\n")
        assert read_all(one).count(b'{"alive":true}') == 10


def test_what_is_no_http_is_refused_closed_and_counted(hasty: Service) -> None:
    post_rank = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    for junk in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post_rank + b"5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        post_rank + b"-5\r\n\r\n",
        ALIVE[:-2] + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + b"a" * 99,
    ):
        with connect(hasty[0]) as one:
            one.sendall(junk)
            read_all(one)
        eventually(lambda: answers(hasty))

    def nonsense() -> int:
        with connect(hasty[0]) as one:
            one.sendall(b"nonsense\r\n\r\n")
            return status(read_all(one))

    def counted() -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            text = httpx2.get(f"{hasty[0]}/metrics").text
            return all(f'corank_connections_cut_total{{why="{why}"}}' in text for why in ("invalid", "slow"))
        return False

    eventually(lambda: nonsense() == 400)
    with connect(hasty[0]) as one:
        assert read_all(one) == b""
    eventually(counted)


# The end of a service


def message() -> bytes:
    """A whole request."""
    body = json.dumps(RANK).encode()
    return post(len(body)) + body


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_lie_in_sockets_unread_are_answered(workers: int, tmp_path: Path) -> None:
    options = ("--stop-seconds", str(PATIENCE))
    with (
        running_service(bundle(), tmp_path, *options, workers=workers) as (url, process),
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(connect(url))]
        connections[0].sendall(message())
        read_one(connections[0])
        processes = [process, *process.children()]
        for one in processes:
            os.kill(one.pid, signal.SIGSTOP)
        connections += [stack.enter_context(connect(url)) for _ in range(9)]
        for connection in connections:
            connection.sendall(message())
        os.kill(process.pid, signal.SIGTERM)
        for one in processes:
            os.kill(one.pid, signal.SIGCONT)
        for connection in connections:
            assert status(read_all(connection)) == 200
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_turns_unready_first_and_answers_on_until_a_second_signal(workers: int, tmp_path: Path) -> None:
    options = ("--drain-seconds", "3600")
    with running_service(bundle(), tmp_path, *options, workers=workers) as (url, process):
        children = process.children()
        assert httpx2.get(f"{url}/readyz").status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: httpx2.get(f"{url}/readyz").status_code != 200)
        answer = httpx2.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"error": "draining"})
        ranked = httpx2.post(f"{url}/rank", json=RANK)
        assert (ranked.status_code, ranked.headers["connection"]) == (200, "close")
        assert httpx2.get(f"{url}/status").json()["draining"]
        os.kill(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
        assert not psutil.wait_procs(children, timeout=PATIENCE)[1]


def test_a_request_that_never_comes_whole_does_not_keep_it(tmp_path: Path) -> None:
    with (
        running_service(bundle(), tmp_path, "--stop-seconds", "0.5") as (url, process),
        contextlib.ExitStack() as stack,
    ):
        for half in (message()[:-1], b"POST /rank HTTP/1.1\r\nHos", b""):
            stack.enter_context(connect(url)).sendall(half)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_workers_end_with_a_parent_that_was_killed_and_free_the_port(tmp_path: Path) -> None:
    with running_service(bundle(), tmp_path, workers=2) as (url, process):
        children = process.children()
        os.kill(process.pid, signal.SIGKILL)
        assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
        bind_listener("127.0.0.1", int(url.rpartition(":")[2])).close()


def test_connections_that_wait_are_kept_and_no_more_come() -> None:
    with bind_listener("127.0.0.1", 0) as listener:
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address) as waiting:
            waiting.sendall(b"sent")
            refuse_connections(listener)
            with socket.socket() as late:
                late.setblocking(False)
                late.connect_ex(address)
                accepted, _ = listener.accept()
                with accepted:
                    assert accepted.recv(4) == b"sent"
                listener.setblocking(False)
                with pytest.raises(BlockingIOError):
                    listener.accept()


def test_a_service_of_another_user_than_root_ends_as_well() -> None:
    """Some kernels let only root attach the filter of packets."""
    ending = """
import os
from corank_serve.http.process.listener import bind_listener, refuse_connections
with bind_listener("127.0.0.1", 0) as listener:
    listener.listen()
    if os.getuid() == 0:
        os.setuid(65534)
    refuse_connections(listener)
"""
    subprocess.run([sys.executable, "-c", ending], check=True)
