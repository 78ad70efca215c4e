"""The parent of several worker processes: it replaces those that end, and ends them together."""

import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_double
from types import FrameType

from corank.core.errors import CorankError
from corank.core.types import Report
from corank.serving.http.process.draining import ACCEPT_SECONDS, EXIT_SECONDS, Drain
from corank.serving.http.process.listener import refuse_connections

SPAWN = multiprocessing.get_context("spawn")
POLL_SECONDS = 0.1
HANGS_POLLS = 300
"""A worker whose event loop has not turned in so many polls, about 30 seconds, is killed. Polls are counted rather than
time, since a pause of all processes is no fault of a worker."""
STEADY_SECONDS = 60.0
"""A worker that lived so long is replaced at once; one that ended sooner, after a pause that doubles each time."""
LONGEST_PAUSE = 60.0

WorkerMain = Callable[[socket.socket, c_double], None]
"""Serves on a socket, and writes into a shared number, every tenth of a second, when that was by `time.monotonic`."""


class WorkerProcess:
    """A worker process, and when its event loop turned last."""

    def __init__(self, main: WorkerMain, listener: socket.socket) -> None:
        """Start it."""
        self._beat: c_double = SPAWN.RawValue(c_double, 0.0)
        self.process = SPAWN.Process(target=main, args=(listener, self._beat))
        self.began = time.monotonic()
        self._last_beat, self._missed = 0.0, 0
        self.process.start()

    @property
    def pid(self) -> int:
        """The process' id."""
        assert self.process.pid is not None
        return self.process.pid

    def has_served(self) -> bool:
        """Whether it ever answered requests."""
        return float(self._beat.value) > 0

    def has_ended(self) -> bool:
        """Whether it has ended, by a poll; one that hangs is killed."""
        beat = float(self._beat.value)
        self._missed = self._missed + 1 if beat == self._last_beat else 0
        self._last_beat = beat
        if self.has_served() and self._missed > HANGS_POLLS:
            self.process.kill()
            self.process.join()
        return not self.process.is_alive()


class Supervisor:
    """Keeps a number of workers running until SIGTERM or SIGINT."""

    def __init__(
        self,
        count: int,
        main: WorkerMain,
        drain: Drain,
        report: Report,
        on_end: Callable[[int], None],
    ) -> None:
        """
        Args:
            count: number of workers.
            main: of a worker; importable by name, since workers are spawned.
            drain: as the workers have it.
            report: receives what ended.
            on_end: receives the id of a process that has ended.
        """
        self._count, self._main, self._drain, self._report, self._on_end = count, main, drain, report, on_end
        self._workers: list[WorkerProcess] = []
        self._signals = 0
        self._pauses: dict[int, float] = {}
        """Seconds after which a worker's next successor starts, by its place."""
        self._due: dict[int, float] = {}
        """When the successor of a worker that has ended starts, by its place."""

    def run(self, listener: socket.socket) -> None:
        """Serve on a socket until told to end. Raises CorankError if workers cannot start."""
        with self._handling_signals():
            try:
                self._workers = [self._start(listener) for _ in range(self._count)]
                while not self._signals:
                    time.sleep(POLL_SECONDS)
                    for place in range(self._count):
                        self._keep(place, listener)
                self._end(listener)
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.join()

    def _start(self, listener: socket.socket) -> WorkerProcess:
        # ignored, it stays ignored in the worker: a terminal sends it to both, and the parent decides
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return WorkerProcess(self._main, listener)
        finally:
            signal.signal(signal.SIGINT, handler)

    def _keep(self, place: int, listener: socket.socket) -> None:
        """Replace a worker that has ended, at its time. Raises CorankError if none is left and it never served."""
        worker, now = self._workers[place], time.monotonic()
        if place in self._due:
            if now >= self._due[place]:
                del self._due[place]
                self._workers[place] = self._start(listener)
        elif worker.has_ended():
            self._on_end(worker.pid)
            code = worker.process.exitcode
            if not worker.has_served() and not any(one.has_served() for one in self._living()):
                raise CorankError(f"a worker ended with exit code {code} before it served; see above")
            steady = now - worker.began >= STEADY_SECONDS
            pause = 0.0 if steady else self._pauses.get(place, 0.0)
            self._pauses[place] = min(LONGEST_PAUSE, max(1.0, 2 * pause))
            self._due[place] = now + pause
            self._report(f"worker {worker.pid} ended with exit code {code}; another starts in {pause:g} s")

    def _living(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.process.is_alive()]

    def _end(self, listener: socket.socket) -> None:
        """End all workers, and wait until they have answered what came; no longer if told again."""
        began = time.monotonic()
        for worker in self._living():
            worker.process.terminate()
        self._wait(began + self._drain.grace)
        refuse_connections(listener)
        listener.close()
        self._wait(began + self._drain.grace + ACCEPT_SECONDS + self._drain.limit + EXIT_SECONDS)

    def _wait(self, end: float) -> None:
        while self._living() and self._signals < 2 and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def handle(sig: int, frame: FrameType | None) -> None:
            self._signals += 1

        before = {sig: signal.signal(sig, handle) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
