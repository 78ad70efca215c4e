"""Ports of this machine that nobody has."""

import os
import socket
from contextlib import suppress
from itertools import count

FIRST, PORTS, WORKERS = 20_000, 500, 20
"""Ports of each worker of the tests. They lie below those that the system gives to anyone who asks for port 0."""
_next = count(os.getpid() * 37)


def free_port() -> int:
    """A port that no other worker of the tests takes before a server has it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    while True:
        port = FIRST + PORTS * worker + next(_next) % PORTS
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
