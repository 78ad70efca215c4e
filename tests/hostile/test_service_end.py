"""The end of a service: every request that was fully sent is answered, in bounded time."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from corank.serving.http.process.listener import bind_listener, refuse_connections
from tests.support.random_worlds import RICH
from tests.support.service import running_service
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

SENT = 9


@pytest.fixture
def bundle() -> str:
    """The folder of a bundle."""
    return str(shared_case(RICH).base / "bundle")


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Open connections of the test, closed at its end."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def message(candidate: int) -> bytes:
    """A whole request."""
    body = json.dumps({"user": {}, "candidates": [candidate]}).encode()
    head = f"POST /rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def connect(url: str) -> socket.socket:
    """A new connection to a service."""
    port = int(url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """All bytes until the other side closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_answer(connection: socket.socket) -> None:
    """One answer, after which the connection stays open."""
    content = b""
    while not (length := re.search(rb"content-length: (\d+).*?\r\n\r\n", content, re.DOTALL)):
        content += connection.recv(1 << 16)
    while len(content) < length.end() + int(length[1]):
        content += connection.recv(1 << 16)


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_lie_in_sockets_unread_are_answered(
    workers: int, bundle: str, tmp_path: Path, sockets: list[socket.socket]
) -> None:
    options = ("--stop-seconds", str(PATIENCE))
    with running_service(bundle, tmp_path, *options, workers=workers) as (url, process):
        kept = connect(url)
        sockets.append(kept)
        kept.sendall(message(1))
        read_answer(kept)
        processes = [process, *process.children()]
        for one in processes:
            os.kill(one.pid, signal.SIGSTOP)
        kept.sendall(message(2))
        for n in range(SENT):
            sockets.append(connect(url))
            sockets[-1].sendall(message(n))
        os.kill(process.pid, signal.SIGTERM)
        for one in processes:
            os.kill(one.pid, signal.SIGCONT)
        for connection in sockets:
            assert read_all(connection).startswith(b"HTTP/1.1 200")
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_turns_unready_first_and_answers_on(workers: int, bundle: str, tmp_path: Path) -> None:
    options = ("--drain-seconds", "3600")
    with running_service(bundle, tmp_path, *options, workers=workers) as (url, process):
        assert httpx2.get(f"{url}/readyz").status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: httpx2.get(f"{url}/readyz").status_code != 200)
        answer = httpx2.get(f"{url}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"error": "draining"})
        ranked = httpx2.post(f"{url}/rank", json={"user": {}, "candidates": [1]})
        assert (ranked.status_code, ranked.headers["connection"]) == (200, "close")
        assert httpx2.get(f"{url}/status").json()["draining"]
        os.kill(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_it_at_once(workers: int, bundle: str, tmp_path: Path) -> None:
    options = ("--drain-seconds", "3600")
    with running_service(bundle, tmp_path, *options, workers=workers) as (url, process):
        children = process.children()
        os.kill(process.pid, signal.SIGTERM)
        eventually(lambda: httpx2.get(f"{url}/readyz").status_code != 200)
        os.kill(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
        assert not psutil.wait_procs(children, timeout=PATIENCE)[1]


def test_a_request_that_never_comes_whole_does_not_keep_it(
    bundle: str, tmp_path: Path, sockets: list[socket.socket]
) -> None:
    with running_service(bundle, tmp_path, "--stop-seconds", "0.5") as (url, process):
        for half in (message(1)[:-1], b"POST /rank HTTP/1.1\r\nHos", b""):
            sockets.append(connect(url))
            sockets[-1].sendall(half)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_workers_end_with_a_parent_that_was_killed_and_free_the_port(bundle: str, tmp_path: Path) -> None:
    with running_service(bundle, tmp_path, workers=2) as (url, process):
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
