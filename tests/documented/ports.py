"""The port that pages name: one page of this machine at a time has it."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

import pytest

PORT = 8000
"""Where `corank serve` listens if no option says otherwise."""


@contextmanager
def only_service() -> Iterator[None]:
    """Wait until no other page has a service. Skips the test if a process that is no test's has the port."""
    with Path(gettempdir(), "corank-documented.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                free.bind(("127.0.0.1", PORT))
            except OSError:
                pytest.skip(f"another process of this machine has port {PORT}, which the pages name")
        yield
