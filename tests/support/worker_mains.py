"""Mains of worker processes for tests of their supervisor; few imports, since each is spawned."""

import signal
import socket
import sys

from corank.serving.http.process.worker_process import WorkerSigns


def fail_at_once(listener: socket.socket, signs: WorkerSigns) -> None:
    """A worker that cannot start."""
    sys.exit(7)


def fail_with_a_reason(listener: socket.socket, signs: WorkerSigns) -> None:
    """One that says why."""
    signs.fail("shop: not a bundle")
    sys.exit(1)


def die_once_served(listener: socket.socket, signs: WorkerSigns) -> None:
    """One that serves for a moment and dies."""
    signs.beat()
    sys.exit(9)


def serve_until_told(listener: socket.socket, signs: WorkerSigns) -> None:
    """One that serves until it must retire or end."""
    ends = (signal.SIGUSR2, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signs.beat()
    signal.sigwait(ends)
