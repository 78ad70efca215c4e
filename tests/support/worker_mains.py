"""Mains of worker processes for tests of their supervisor; few imports, since each is spawned."""

import signal
import socket
import sys
import time
from ctypes import c_double


def fail_at_once(listener: socket.socket, beat: c_double) -> None:
    """A worker that cannot start."""
    sys.exit(7)


def die_once_served(listener: socket.socket, beat: c_double) -> None:
    """One that serves for a moment and dies."""
    beat.value = time.monotonic()
    sys.exit(9)


def serve_until_told(listener: socket.socket, beat: c_double) -> None:
    """One that serves until it is told to retire, or to end."""
    ends = (signal.SIGUSR2, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    beat.value = time.monotonic()
    signal.sigwait(ends)
