"""The parent of worker processes: it replaces those that end, renews them on request, and ends them together.

It tells systemd that the service is ready, reads its settings anew, ends, and is alive, by the protocol of
sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without it nothing is sent.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from corank.core.errors import CorankError
from corank.core.reports import Report
from corank.serving.http.process.listener import refuse_connections
from corank.serving.http.process.worker_process import (
    ACCEPT_SECONDS,
    BLOCKED_AT_START,
    EXIT_SECONDS,
    Drain,
    RestartCounts,
    WorkerMain,
    WorkerProcess,
)


class Renewal:
    """One renewal of all workers. One worker more than usual runs at a time."""

    def __init__(
        self, workers: list[WorkerProcess], start: Callable[[], WorkerProcess], report: Report
    ) -> None:
        """
        Args:
            workers: of the service; a new one is put in the place of the old one.
            start: starts a new one.
            report: receives why a renewal stops.
        """
        self._workers, self._start, self._report = workers, start, report
        self._place, self._renewed = 0, 0
        self._successor: WorkerProcess | None = None
        """Of the worker of this place; it has not served yet."""
        self._retired: WorkerProcess | None = None
        """It was replaced, and answers what it has begun."""

    @property
    def extra(self) -> list[WorkerProcess]:
        """Processes that run in addition to the service's workers."""
        return [one for one in (self._successor, self._retired) if one is not None]

    def advance(self) -> WorkerProcess | None:
        """Take the next step if it can be taken; return a worker that was replaced just now."""
        if self._retired is not None:
            if not self._retired.process.is_alive():
                self._retired = None
        elif self._successor is None:
            self._successor = self._start()
        elif self._successor.has_served():
            self._retired, self._workers[self._place] = self._workers[self._place], self._successor
            self._successor, self._place, self._renewed = None, self._place + 1, self._renewed + 1
            self._retired.retire()
            return self._retired
        elif not self._successor.process.is_alive():
            code, trouble = self._successor.process.exitcode, self._successor.trouble
            why = f": {trouble}" if trouble else ""
            self._report(
                f"a new worker ended with exit code {code} before it served{why}; the earlier workers stay"
            )
            self._successor, self._place = None, len(self._workers)
        return None

    def is_over(self) -> bool:
        """Whether all are replaced, or a new one could not start."""
        return self._place == len(self._workers) and not self.extra

    def is_complete(self) -> bool:
        """Whether all are replaced."""
        return self._renewed == len(self._workers)

    def stop(self) -> None:
        """Give it up: whoever has not served yet ends."""
        if self._successor is not None:
            self._successor.kill()
            self._successor = None
        self._place = len(self._workers)


NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceNotifier:
    """Sends the state of this process to systemd; what it reads of the environment is not left to other processes."""

    def __init__(self) -> None:
        self._address = os.environ.pop(NOTIFY_SOCKET, "")
        microseconds = os.environ.pop(WATCHDOG_USEC, "")
        mine = os.environ.pop(WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        self._every = int(microseconds) / 2e6 if microseconds.isdecimal() and mine else 0.0
        """Seconds between two signs of life: half of what systemd waits for one; 0 if it does not."""
        self._next = 0.0

    def tell_alive(self) -> None:
        """Give a sign of life, if one is due."""
        now = time.monotonic()
        if self._every and now >= self._next:
            self._next = now + self._every
            self.send("WATCHDOG=1")

    def send(self, state: str) -> None:
        """Tell a state, such as `STOPPING=1`."""
        if not self._address:
            return
        # a name that begins with @ lies in the abstract namespace
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)


POLL_SECONDS = 0.1
STEADY_SECONDS = 60.0
"""A worker that lived so long is replaced at once; one that ended sooner, after a pause that doubles each time."""
LONGEST_PAUSE = 60.0


class Supervisor:
    """Keeps a number of workers running until SIGTERM or SIGINT; on SIGHUP each makes way for a new one."""

    def __init__(
        self,
        count: int,
        main: WorkerMain,
        drain: Drain,
        report: Report,
        on_end: Callable[[int], None] = lambda pid: None,
        renew: Callable[[], WorkerMain] | None = None,
        restarts: RestartCounts | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            count: number of workers.
            main: of a worker; importable by name, since workers are spawned.
            drain: as the workers have it.
            report: receives what ended.
            on_end: receives the id of a process that has ended.
            renew: makes the main of new workers on SIGHUP, by the settings of now; it may raise CorankError. Without
                it they have the main of before.
            restarts: counts them.
            on_ready: is called when the first worker serves.
        """
        self._count, self._main, self._drain, self._report, self._on_end = count, main, drain, report, on_end
        self._renew = renew or (lambda: main)
        self._restarts, self._on_ready = restarts or RestartCounts(), on_ready
        self._notifier = ServiceNotifier()
        self._workers: list[WorkerProcess] = []
        self._signals, self._renewals, self._is_ready = 0, 0, False
        self._pauses: dict[int, float] = {}
        """Seconds after which a worker's next successor starts, by its place."""
        self._due: dict[int, float] = {}
        """When the successor of a worker that has ended starts, by its place."""
        self._renewal: Renewal | None = None

    def run(self, listener: socket.socket, is_own: bool = True) -> None:
        """Serve on a socket until told to end. Raises CorankError if the first worker cannot start.

        The others start once it serves: it has fetched what they need, and says for all of them what is wrong.

        Args:
            listener: the socket.
            is_own: whether nobody else holds it, so that new connections must be kept away at the end. Those to a
                socket that was inherited wait in it for the next service.
        """
        with self._handling_signals():
            try:
                self._workers = [self._start(listener)]
                while not self._signals:
                    time.sleep(POLL_SECONDS)
                    self._look(listener)
                self._end(listener, is_own)
            finally:
                for worker in self._all():
                    worker.kill()

    def _look(self, listener: socket.socket) -> None:
        """Do what is to be done now."""
        if len(self._workers) < self._count and self._workers[0].has_served():
            self._workers += [self._start(listener) for _ in range(1, self._count)]
        for place in range(len(self._workers)):
            self._keep(place, listener)
        if self._renewals:
            self._renewals = 0
            self._begin_renewal(listener)
        if self._renewal is not None:
            if (replaced := self._renewal.advance()) is not None:
                self._restarts.add("replaced")
                self._on_end(replaced.pid)
            if self._renewal.is_over():
                if self._renewal.is_complete():
                    self._report(f"renewed: {self._workers_text} by the settings of now")
                self._renewal = None
                self._tell_ready()
        if not self._is_ready and any(worker.has_served() for worker in self._living()):
            self._tell_ready()
            self._on_ready()
        if self._living():
            self._notifier.tell_alive()

    @property
    def _workers_text(self) -> str:
        return f"{self._count} worker{'s' if self._count > 1 else ''}"

    def _tell_ready(self) -> None:
        self._is_ready = True
        self._notifier.send(f"READY=1\nSTATUS={self._workers_text}")

    def _start(self, listener: socket.socket) -> WorkerProcess:
        # ignored, it stays ignored in the worker: a terminal sends it to both, and the parent decides
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        # blocked, they stay blocked in the worker until it handles them
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_AT_START)
        try:
            return WorkerProcess(self._main, listener)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_AT_START)
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
            if not self._is_ready and not any(one.has_served() for one in [worker, *self._living()]):
                raise CorankError(
                    worker.trouble or f"a worker ended with exit code {code} before it served; see above"
                )
            self._restarts.add("died")
            steady = now - worker.began >= STEADY_SECONDS
            pause = 0.0 if steady else self._pauses.get(place, 0.0)
            self._pauses[place] = min(LONGEST_PAUSE, max(1.0, 2 * pause))
            self._due[place] = now + pause
            why = f": {worker.trouble}" if worker.trouble else ""
            self._report(
                f"worker {worker.pid} ended with exit code {code}{why}; another starts in {pause:g} s"
            )

    def _begin_renewal(self, listener: socket.socket) -> None:
        """Let all workers make way for new ones; if the new settings are faulty, report it and keep the old ones."""
        self._notifier.send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._main = self._renew()
        except CorankError as error:
            self._report(f"the settings of before stay: {error}")
            self._tell_ready()
            return
        if self._renewal is not None:
            self._renewal.stop()
        self._renewal = Renewal(self._workers, lambda: self._start(listener), self._report)

    def _all(self) -> list[WorkerProcess]:
        return [*self._workers, *(self._renewal.extra if self._renewal else [])]

    def _living(self) -> list[WorkerProcess]:
        return [worker for worker in self._all() if worker.process.is_alive()]

    def _end(self, listener: socket.socket, is_own: bool) -> None:
        """End all workers, and wait until they have answered what came; no longer after a second signal."""
        began = time.monotonic()
        self._notifier.send("STOPPING=1")
        for worker in self._living():
            worker.process.terminate()
        self._wait(began + self._drain.grace)
        if is_own:
            refuse_connections(listener)
        listener.close()
        self._wait(began + self._drain.grace + ACCEPT_SECONDS + self._drain.limit + EXIT_SECONDS)

    def _wait(self, end: float) -> None:
        while self._living() and self._signals < 2 and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def end(sig: int, frame: FrameType | None) -> None:
            self._signals += 1

        def renew(sig: int, frame: FrameType | None) -> None:
            self._renewals += 1

        # a terminal that closes sends SIGHUP, and means the end
        on_hangup = end if os.isatty(0) else renew
        handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: on_hangup}
        before = {sig: signal.signal(sig, handler) for sig, handler in handlers.items()}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
