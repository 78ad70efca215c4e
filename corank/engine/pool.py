"""The engine of one machine with several workers: a pool of processes."""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from corank.engine.base import ENGINES, Engine, Job, JobOutcome, LostJobs, describe_exit
from corank.engine.cores import count_cores

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
"""Environment variables that bound the threads of the libraries that tasks use."""


def bound_threads(threads: int) -> dict[str, str]:
    """Make the variables of the environment that let each library of a worker start so many threads, or fewer."""
    return {name: str(min(threads, _positive(os.environ.get(name)) or threads)) for name in _THREADS}


def _positive(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) > 0 else None


@dataclass(eq=False)
class PoolWorker:
    """A process of the pool, and the job that it runs."""

    process: "subprocess.Popen[bytes]"
    connection: Connection
    run: object = None
    """The function that it holds."""
    job: Job | None = None

    @classmethod
    def start(cls, threads: int) -> "PoolWorker":
        """Start a process. It ends with this one, however this one ends."""
        ours, theirs = Pipe()
        with theirs:
            handle = theirs.fileno()
            command = [sys.executable, "-m", "corank.engine.pool_worker", str(handle)]
            path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
            environment = os.environ | bound_threads(threads) | {"PYTHONPATH": path}
            process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return cls(process, ours)

    def send(self, run: Callable[[Job], JobOutcome], pickled: bytes, job: Job) -> None:
        """Send a job, and the function unless the process holds it. Raises OSError if the process has ended."""
        if self.run is not run:
            self.connection.send_bytes(pickled)
            self.run = run
        self.connection.send(job)
        self.job = job

    def end(self) -> int:
        """Kill the process unless it has ended. Returns its exit status."""
        self.connection.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        return self.process.wait()


@ENGINES.register("pool")
class PoolEngine(Engine):
    """Runs tasks in processes of this machine. A process that dies is replaced, and its task is run again."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._pool: list[PoolWorker] = []

    @property
    def threads(self) -> int:
        """So many that the workers together have a thread a core."""
        return max(1, count_cores() // self.workers)

    def outcomes(self, run: Callable[[Job], JobOutcome], jobs: Sequence[Job]) -> Generator[JobOutcome]:
        """Send a job to each process that has none, and yield what comes back."""
        waiting, lost, pickled = deque(jobs), LostJobs("pool"), pickle.dumps(run)
        try:
            while waiting or self._busy():
                while waiting and len(self._busy()) < self.workers:
                    self._send(run, pickled, waiting.popleft())
                by_connection = {worker.connection: worker for worker in self._busy()}
                for ready in wait(list(by_connection)):
                    worker = by_connection[ready]  # type: ignore[index]
                    job, worker.job = worker.job, None
                    assert job is not None
                    try:
                        outcome: JobOutcome = worker.connection.recv()
                    except (EOFError, OSError):
                        lost.add(job, describe_exit(self._drop(worker)))
                        waiting.appendleft(job)
                        continue
                    yield outcome
        finally:
            for worker in self._busy():
                self._drop(worker)

    def _busy(self) -> list[PoolWorker]:
        return [worker for worker in self._pool if worker.job is not None]

    def _send(self, run: Callable[[Job], JobOutcome], pickled: bytes, job: Job) -> None:
        """Send a job to an idle process, or to one that is started now."""
        while True:
            worker = next((worker for worker in self._pool if worker.job is None), None)
            if worker is None:
                worker = PoolWorker.start(self.threads)
                self._pool.append(worker)
            try:
                return worker.send(run, pickled, job)
            except OSError:  # it has ended since
                self._drop(worker)

    def _drop(self, worker: PoolWorker) -> int:
        self._pool.remove(worker)
        return worker.end()

    def close(self) -> None:
        """End the processes."""
        while self._pool:
            self._drop(self._pool[0])
