"""The parent of worker processes: gunicorn's arbiter, whose workers are spawned, and make way one by one.

gunicorn handles signals and inherited sockets, ends what hangs, and bounds the end. Here it differs in what would lose
requests or a service: a worker serves before another is told to go, faulty settings leave those of before, and a worker
that cannot start ends no service that runs. Workers are spawned, since threads of what a program has loaded, such as
polars', do not survive a fork.
"""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, SimpleNamespace

from gunicorn import systemd
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config

from corank.core.errors import CorankError
from corank.core.reports import Report
from corank_serve.http.process.listener import refuse_connections
from corank_serve.http.process.worker_process import (
    ACCEPT_SECONDS,
    BLOCKED_AT_START,
    EXIT_SECONDS,
    POLL_SECONDS,
    RETIRE,
    SPAWN,
    Drain,
    RestartCounts,
    WorkerMain,
    WorkerSigns,
)

STEADY_SECONDS = 60.0
"""A worker that lived so long is replaced at once; one that ended sooner, after a pause that doubles each time."""
LONGEST_PAUSE = 60.0
ENDS = (signal.SIGTERM, signal.SIGINT)
NOTIFY_SOCKET = "NOTIFY_SOCKET"


class SpawnedWorker:
    """A worker process, with what gunicorn asks of one."""

    aborted = False
    """Whether it was told to end since it hangs."""
    retired = False
    """Whether another has taken its place."""

    def __init__(self, age: int, main: WorkerMain, listeners: Sequence[socket.socket]) -> None:
        """Start it; `age` is its number, by which the oldest is known."""
        self.age, self.began = age, time.monotonic()
        self.tmp = WorkerSigns()
        self.process = SPAWN.Process(target=main, args=(listeners, self.tmp))
        self.process.start()

    @property
    def pid(self) -> int:
        """The process' id."""
        assert self.process.pid is not None
        return self.process.pid


class ServiceArbiter(Arbiter):  # type: ignore[misc]
    """Keeps a number of workers running until SIGTERM or SIGINT; on SIGHUP each makes way for a new one."""

    SIGNALS = (signal.SIGHUP, signal.SIGQUIT, *ENDS)

    def __init__(
        self,
        count: int,
        main: WorkerMain,
        drain: Drain,
        report: Report,
        on_end: Callable[[int], None] = lambda pid: None,
        renew: Callable[[], WorkerMain] | None = None,
        restarts: RestartCounts | None = None,
        on_ready: Callable[[Sequence[socket.socket]], None] = lambda listeners: None,
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
            on_ready: receives the sockets when the first worker serves.
        """
        self._main, self._drain, self._report, self._on_end = main, drain, report, on_end
        self._renew, self._on_ready = renew or (lambda: main), on_ready
        self._restarts = restarts or RestartCounts()
        self._is_ready, self._ends, self._stopping = False, 0, False
        self._pause, self._due = 0.0, 0.0
        """Seconds before the last start of a worker in place of one that died young; when the next may start."""
        self._outdated = 0
        """Workers up to this age make way for new ones; 0 if none do."""
        self._alive_at = 0
        """Second of the last sign of life to systemd."""
        self._sockets: list[socket.socket] = []
        self.trouble = ""
        """Why the service could not start."""
        config = Config()
        limit = drain.grace + ACCEPT_SECONDS + drain.limit + EXIT_SECONDS
        for name, value in {
            "workers": count,
            "worker_class": SpawnedWorker,
            "graceful_timeout": math.ceil(limit),
            "control_socket_disable": True,
            "loglevel": "warning",
        }.items():
            config.set(name, value)
        super().__init__(SimpleNamespace(cfg=config))

    def serve(self, listener: socket.socket | None) -> None:
        """Serve on a socket, or on those that systemd left to this process, until told to end.

        The first worker starts alone: it fetches what the others need, and says for all of them what is wrong.
        Raises CorankError if it cannot start.
        """
        self.LISTENERS = [] if listener is None else [listener]
        with _keeping_handlers():
            try:
                self.run()
            except SystemExit as end:  # how gunicorn's arbiter always ends
                if end.code:
                    raise
            finally:
                for worker in self.WORKERS.values():
                    worker.process.kill()
                for held in self._sockets:
                    held.close()
        if self.trouble:
            raise CorankError(self.trouble)

    # What gunicorn calls

    def start(self) -> None:
        """Begin, but do not tell systemd yet that the service is ready. Raises CorankError if it left no socket."""
        address = os.environ.pop(NOTIFY_SOCKET, None)
        try:
            super().start()
        except OSError as error:
            raise CorankError(f"LISTEN_FDS: expected sockets to serve on: {error.strerror}") from None
        if address is not None:
            os.environ[NOTIFY_SOCKET] = address
        self._sockets = [one.dup() for one in self.LISTENERS]

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """Keep a signal; the second one that asks for the end ends all at once."""
        self._ends += sig in ENDS
        super().signal(signal.SIGQUIT if self._ends > 1 else sig, frame)

    def handle_int(self) -> None:
        """End in order, as by SIGTERM."""
        raise StopIteration

    def handle_hup(self) -> None:
        """Let all workers make way for new ones. A terminal that closes sends SIGHUP, too, and means the end."""
        if os.isatty(0):
            raise StopIteration
        self.reload()

    def wait_for_signals(self, timeout: float = POLL_SECONDS) -> list[int]:
        """Wait for a signal, or for the time of a look at the workers."""
        signals: list[int] = super().wait_for_signals(POLL_SECONDS)
        return signals

    def reload(self) -> None:
        """Begin to replace all workers; if the new settings are faulty, report it and keep the old ones."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._main = self._renew()
        except CorankError as error:
            self._report(f"the settings of before stay: {error}")
            self._tell_ready()
        else:
            self._outdated = self.worker_age

    def manage_workers(self) -> None:
        """Start and retire workers, one at a time. While there are old ones, one more than usual runs."""
        workers: list[SpawnedWorker] = sorted(self.WORKERS.values(), key=lambda one: one.age)
        current = [one for one in workers if not one.retired]
        serving = [one for one in current if one.tmp.has_served]
        if workers and int(time.monotonic()) != self._alive_at:
            self._alive_at = int(time.monotonic())
            self._notify("WATCHDOG=1")
        if serving and not self._is_ready:
            self._tell_ready()
            self._on_ready(self._sockets)
        if len(serving) > self.num_workers:
            self._retire(serving[0])
        elif self._outdated and len(serving) == self.num_workers and workers[0].age > self._outdated:
            self._outdated = 0
            self._report(f"renewed: {self._workers_text} by the settings of now")
            self._tell_ready()
            return
        awaited = self.num_workers if self._is_ready else 1
        older = bool(current) and current[0].age <= self._outdated
        if len(current) < awaited or (older and len(workers) <= awaited):
            self.spawn_worker()

    def spawn_worker(self) -> None:
        """Start a worker, unless one that has just died must be waited for."""
        if time.monotonic() < self._due:
            return
        self.worker_age += 1
        # blocked, they stay blocked in the worker: SIGINT, which a terminal sends to both, always, others until it
        # handles them
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {*BLOCKED_AT_START, signal.SIGINT})
        try:
            worker = SpawnedWorker(self.worker_age, self._main, self._sockets)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self.WORKERS[worker.pid] = worker

    def reap_workers(self) -> None:
        """Forget workers that have ended. Other children of this process are not waited for."""
        for pid, worker in list(self.WORKERS.items()):
            if worker.process.exitcode is not None:
                del self.WORKERS[pid]
                if not (worker.retired or self._stopping):
                    self._replace(worker)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker, which may have ended."""
        with suppress(ProcessLookupError):
            os.kill(pid, sig)

    def stop(self, graceful: bool = True) -> None:
        """End all workers, and wait until they have answered what came; no longer after a second signal.

        New connections are kept away when the workers close the socket, unless others hold it: those to a socket that
        was inherited wait in it for the next service.
        """
        self._stopping = True
        self._notify("STOPPING=1")
        refusing = threading.Timer(self._drain.grace, self._refuse_connections)
        if not self.systemd:
            refusing.start()
        super().stop(graceful and self._ends < 2)
        refusing.cancel()

    # Its steps

    def _refuse_connections(self) -> None:
        for one in self._sockets:
            refuse_connections(one)

    def _retire(self, worker: SpawnedWorker) -> None:
        """Tell a worker that another has taken its place."""
        worker.retired = True
        self._restarts.add("replaced")
        self._on_end(worker.pid)
        self.kill_worker(worker.pid, RETIRE)

    def _replace(self, worker: SpawnedWorker) -> None:
        """See to it that another starts. Raises StopIteration if none ever served."""
        code, served, now = worker.process.exitcode, worker.tmp.has_served, time.monotonic()
        why = f": {worker.tmp.trouble}" if worker.tmp.trouble else ""
        if not self._is_ready and not served:
            self.trouble = (
                worker.tmp.trouble or f"a worker ended with exit code {code} before it served; see above"
            )
            raise StopIteration
        if self._outdated and worker.age > self._outdated and not served:
            self._outdated = 0
            self._report(
                f"a new worker ended with exit code {code} before it served{why}; the earlier workers stay"
            )
            self._tell_ready()
            return
        self._restarts.add("died")
        self._on_end(worker.pid)
        pause = 0.0 if now - worker.began >= STEADY_SECONDS else self._pause
        self._pause, self._due = min(LONGEST_PAUSE, max(1.0, 2 * pause)), now + pause
        self._report(f"worker {worker.pid} ended with exit code {code}{why}; another starts in {pause:g} s")

    @property
    def _workers_text(self) -> str:
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''}"

    def _tell_ready(self) -> None:
        self._is_ready = True
        self._notify(f"READY=1\nSTATUS={self._workers_text}")

    def _notify(self, state: str) -> None:
        systemd.sd_notify(state, self.log)


@contextmanager
def _keeping_handlers() -> Iterator[None]:
    """Restore the handlers of the signals that an arbiter handles, for a program that goes on after it."""
    before = {sig: signal.getsignal(sig) for sig in (*ServiceArbiter.SIGNALS, signal.SIGCHLD)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)
