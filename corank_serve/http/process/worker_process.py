"""What a worker process and its parent know of each other, and its shutdown state; `draining` is how it shuts down."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from ctypes import c_char, c_long
from dataclasses import dataclass, field
from pathlib import Path

ACCEPT_SECONDS = 0.25
"""Time in which connections that are complete are accepted, before the socket is closed."""
EXIT_SECONDS = 5.0
"""Time for the end of the process after its last answer: its log is written, its threads stop."""
RETIRE = signal.SIGUSR2
"""Tells a worker to end since another has taken its place: the service continues."""


class Drain:
    """When shutdown began, and how much time it has."""

    def __init__(self, grace: float = 0.0, limit: float = 10.0) -> None:
        """
        Args:
            grace: seconds for which requests continue as before.
            limit: seconds after the grace in which what has begun is answered.
        """
        self.grace, self.limit = grace, limit
        self.began: float | None = None
        """By `time.monotonic`; None before shutdown."""
        self.service_goes_on = False
        """Whether the process ends alone: its service stays ready."""

    def begin(self) -> None:
        """Begin, if it has not begun."""
        self.began = time.monotonic() if self.began is None else self.began

    def is_over(self) -> bool:
        """Whether the grace time has passed."""
        return self.began is not None and time.monotonic() >= self.began + self.grace


def end_process_after(seconds: float) -> threading.Timer:
    """End the process at that time, if it is there then: one of its threads may hang."""
    watchdog = threading.Timer(seconds, os._exit, [1])
    watchdog.daemon = True
    watchdog.start()
    return watchdog


SPAWN = multiprocessing.get_context("spawn")
POLL_SECONDS = 0.1
"""Time between two looks of a parent at its workers."""
BLOCKED_AT_START = (signal.SIGHUP, RETIRE)
"""Signals that a worker handles from when `handle_signals` is called; until then they wait."""

TROUBLE_BYTES = 8192
"""Longest message about why a worker cannot start; the rest is cut off."""
MOST_PROOFS, PROOF_BYTES = 64, 32
"""Contents of bundles that are known as verified, more than a cache keeps; bytes of the SHA-256 of each."""
MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: the folder into which several workers write their metrics."""


def handle_signals(retire: Callable[[], None]) -> None:
    """Let a worker retire on RETIRE and end at once on SIGQUIT. SIGHUP, which may go to a group, is its parent's."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(RETIRE, lambda sig, frame: retire())
    signal.signal(signal.SIGQUIT, lambda sig, frame: os._exit(128 + sig))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_START)


class WorkerSigns:
    """The state that a worker reports to its parent, in shared memory."""

    def __init__(self) -> None:
        self._beats: c_long = SPAWN.RawValue(c_long, 0)
        self._trouble = SPAWN.RawArray(c_char, TROUBLE_BYTES)
        self._seen, self._missed = 0, 0

    def beat(self) -> None:
        """Tell, every tenth of a second, that the event loop turns."""
        self._beats.value += 1

    @property
    def has_served(self) -> bool:
        """Whether it ever answered requests."""
        return self._beats.value > 0

    def last_update(self) -> float:
        """When the event loop turned last, by `time.monotonic`; now before it has served.

        Looks, which come every tenth of a second, are counted rather than time, since a pause of all processes is no
        fault of a worker.
        """
        beats = self._beats.value
        self._missed = self._missed + 1 if beats == self._seen and beats else 0
        self._seen = beats
        return time.monotonic() - self._missed * POLL_SECONDS

    def fail(self, trouble: str) -> None:
        """Tell why the worker cannot start, before it ends."""
        self._trouble.value = trouble.encode(errors="replace")[: TROUBLE_BYTES - 1]

    @property
    def trouble(self) -> str:
        """Why it cannot start; "" if it did not say."""
        return self._trouble.value.decode(errors="ignore")


WorkerMain = Callable[[Sequence[socket.socket], WorkerSigns], None]
"""Serves on sockets, and gives signs of it."""


class RestartCounts:
    """How often a worker was started again, and why; shared between the parent, which counts, and the workers."""

    REASONS = ("died", "replaced")
    """It ended by itself or was killed; or one with newer settings replaced it."""

    def __init__(self) -> None:
        self._counts = SPAWN.RawArray(c_long, len(self.REASONS))

    def add(self, why: str) -> None:
        """Count a restart."""
        self._counts[self.REASONS.index(why)] += 1

    def read(self) -> dict[str, int]:
        """The current counts."""
        return dict(zip(self.REASONS, self._counts, strict=True))


class SharedProofs:
    """Proofs (core/artifact.py) of what one of the workers has verified, in memory that no other process can open."""

    def __init__(self) -> None:
        self._proofs = SPAWN.RawArray(c_char, MOST_PROOFS * PROOF_BYTES)  # zeros are no proof
        self._next: c_long = SPAWN.RawValue(c_long, 0)

    def __contains__(self, proof: object) -> bool:
        known: bytes = self._proofs.raw
        return proof in {known[n : n + PROOF_BYTES] for n in range(0, len(known), PROOF_BYTES)}

    def add(self, proof: bytes) -> None:
        """Note a proof, in place of the oldest. Two at once may spoil both, so that one is verified again."""
        first = self._next.value % MOST_PROOFS * PROOF_BYTES
        memoryview(self._proofs).cast("B")[first : first + PROOF_BYTES] = proof
        self._next.value += 1


@dataclass(frozen=True)
class SharedState:
    """What the worker processes of a service share."""

    restarts: RestartCounts = field(default_factory=RestartCounts)
    proofs: SharedProofs = field(default_factory=SharedProofs)
    loading: Path | None = None
    """File that the worker which loads a version locks; None for a process without a parent."""
