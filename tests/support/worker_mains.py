"""What tests run in processes of their own that are spawned: few imports, since each loads them anew."""

import signal
import socket
import sys
from collections.abc import Sequence

from corank_serve.http.process.worker_process import PROOF_BYTES, SharedProofs, WorkerSigns


def fail_at_once(listeners: Sequence[socket.socket], signs: WorkerSigns) -> None:
    """A worker that cannot start."""
    sys.exit(7)


def fail_with_a_reason(listeners: Sequence[socket.socket], signs: WorkerSigns) -> None:
    """One that says why."""
    signs.fail("shop: not a bundle")
    sys.exit(1)


def die_once_served(listeners: Sequence[socket.socket], signs: WorkerSigns) -> None:
    """One that serves for a moment and dies."""
    signs.beat()
    sys.exit(9)


def hang_once_served(listeners: Sequence[socket.socket], signs: WorkerSigns) -> None:
    """One that serves for a moment, and whose event loop then turns no more."""
    signs.beat()
    signal.pause()


def serve_until_told(listeners: Sequence[socket.socket], signs: WorkerSigns) -> None:
    """One that serves until it must retire or end."""
    ends = (signal.SIGUSR2, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signs.beat()
    signal.sigwait(ends)


def note_proof(proofs: SharedProofs, number: int) -> None:
    """Add a proof that is a number."""
    proofs.add(number.to_bytes(PROOF_BYTES, "big"))
