"""Engines: what runs a function over a list of tasks, their registry, and the engine of one worker, this process."""

import inspect
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from corank.core.errors import CorankError, EngineError, PluginError
from corank.core.formatting import shorten
from corank.core.panics import panics_as_errors
from corank.core.registry import Registry, check_class
from corank.core.reports import Progress

TRIES = 5
"""How often a task is run, at most, if its worker ends each time."""
_STATUS = Path("/proc/self/status")


class SentByFields:
    """A dataclass that goes to a worker by its fields alone, without what its cached properties hold."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state sent to a worker."""
        return {part.name: getattr(self, part.name) for part in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Job:
    """A task and its place among the tasks of a run."""

    number: int
    task: Any

    def __str__(self) -> str:
        return shorten(str(self.task), 200)


@dataclass(frozen=True)
class JobOutcome:
    """What a worker sends back of a job."""

    number: int
    result: Any
    error: Exception | None
    worker: str
    """Host and process."""
    peak: int
    """Bytes of memory that the worker has held so far, at most, with the pages of files that it mapped."""

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: an error goes as one that can be read there."""
        error = None if self.error is None else portable_error(self.error)
        return vars(self) | {"error": error}


def run_job(function: Callable[[Any], Any], job: Job) -> JobOutcome:
    """Run a function on the task of a job; its error is part of the outcome."""
    result, error = None, None
    try:
        with panics_as_errors():
            result = function(job.task)
    except Exception as raised:
        error = raised
    return JobOutcome(job.number, result, error, f"{socket.gethostname()}:{os.getpid()}", peak_memory())


def portable_error(error: Exception) -> Exception:
    """Make an error that another process can read, with the traceback as a note unless it is a mistake of the user."""
    if not isinstance(error, CorankError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EngineError(f"a task failed: {type(error).__name__}: {error}")
    return error


def peak_memory() -> int:
    """Measure how many bytes this process has held at most, with the pages of files that it mapped."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):  # not Linux; there, what the parent held would count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class LostJobs:
    """Counts how often the worker of each job ended before the job did."""

    engine: str
    count: Counter[int] = field(default_factory=Counter)

    def add(self, job: Job, how: str) -> None:
        """Count a job whose worker ended. Raises EngineError when it was the last try."""
        self.count[job.number] += 1
        if self.count[job.number] >= TRIES:
            raise EngineError(
                f"engine {self.engine}: task {job}: its worker {how}, {TRIES} times in all; if the machine is short "
                "of memory, take fewer workers"
            )


def describe_exit(code: int | None) -> str:
    """Say how a process ended, by its exit status.

    Example:
        >>> describe_exit(-9)
        'was killed by SIGKILL'
    """
    if code is not None and code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with status {code}"


T = TypeVar("T")
R = TypeVar("R")


class Engine(ABC):
    """Runs a function over tasks, on one or several workers.

    Function and tasks are sent to the workers by pickle, so both are of a module that workers can import. The function
    is sent once to each worker, whatever the number of tasks: an object with `__call__` may hold what all tasks share,
    and what it reads from files stays in the worker. A task may run twice, if a worker dies, and at the same time as it
    runs elsewhere: it writes files next to their place and renames them.

    Example:
        with open_engine(workers=4) as engine:
            lengths = engine.run(len, ["a", "bc"])
    """

    def __init__(self, workers: int = 1) -> None:
        """
        Args:
            workers: how many tasks run at a time.

        Raises EngineError if the engine cannot be started.
        """
        self.workers = workers
        self.peaks: dict[str, int] = {}
        """Bytes that each worker has held at most, by host and process, if it has run a task to its end."""
        self.progress: Progress = lambda done, total: None
        """Receives how many tasks of all runs are done, and how many are known by now: a later run adds its own."""
        self._done = self._known = 0

    @property
    def threads(self) -> int:
        """How many threads a worker may use, 0 for as many as it likes."""
        return 0

    def run(
        self, function: Callable[[T], R], tasks: Sequence[T], progress: Progress = lambda done, total: None
    ) -> list[R]:
        """Run a function over tasks.

        Args:
            function: takes a task, returns what is small: results pass through this process.
            tasks: small, too; what is large lies in files.
            progress: receives how many tasks are done, and of how many.

        Returns:
            Their results, in the order of the tasks.

        Raises:
            EngineError: the worker of one task ended again and again; the message names the task.
            CorankError: what the function raised first. The other tasks are stopped.
        """
        results: dict[int, R] = {}
        jobs = [Job(number, task) for number, task in enumerate(tasks)]
        self._known += len(jobs)
        with closing(self.outcomes(partial(run_job, function), jobs)) as outcomes:
            for outcome in outcomes:
                self.peaks[outcome.worker] = max(outcome.peak, self.peaks.get(outcome.worker, 0))
                if outcome.error is not None:
                    raise outcome.error
                results[outcome.number] = outcome.result
                progress(len(results), len(jobs))
                self._done += 1
                self.progress(self._done, self._known)
        return [results[job.number] for job in jobs]

    @abstractmethod
    def outcomes(self, run: Callable[[Job], JobOutcome], jobs: Sequence[Job]) -> Generator[JobOutcome]:
        """Call `run` with every job, `workers` at a time, and yield what it returns, in any order.

        When the generator is closed, the jobs that run are stopped.
        """

    def close(self) -> None:  # noqa: B027
        """End the workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_engine(what: str, part: Any) -> None:
    """Raise PluginError if a class is no Engine that can be made."""
    check_class(what, part, Engine)
    try:
        inspect.signature(part).bind(1)
    except TypeError:
        raise PluginError(f"{what}: {part.__name__} is made as {part.__name__}(workers)") from None


ENGINES = Registry[type[Engine]]("engine", "corank.engines", "corank.engine", _check_engine)
"""Engine classes by name."""


def open_engine(name: str | None = None, workers: int = 1) -> Engine:
    """Start an engine; close it after use.

    Args:
        name: of the registry: `in_line`, `pool`, `ray` or a plug-in's. `pool` unless given, `in_line` for one worker.
        workers: how many tasks run at a time.

    Raises PluginError if no engine has the name; EngineError if it cannot be started.

    Example:
        with open_engine("ray", workers=8) as engine: ...
    """
    if workers < 1:
        raise EngineError(f"--workers: expected at least 1; received {workers}")
    return ENGINES.find(name or ("in_line" if workers == 1 else "pool"))(workers)


def describe_memory(engine: Engine) -> str:
    """Say in one line how much memory this process and the workers of an engine have held, with the pages of files.

    Example:
        >>> describe_memory(engine)
        'memory: at most 287 MiB here, 412 MiB in each of 2 workers'
    """
    here = f"memory: at most {peak_memory() / 2**20:,.0f} MiB"
    if engine.workers == 1:
        return here
    there = max(engine.peaks.values(), default=0) / 2**20
    return f"{here} here, {there:,.0f} MiB in each of {engine.workers} workers"


@ENGINES.register("in_line")
class InLineEngine(Engine):
    """Runs tasks one after another in this process."""

    def __init__(self, workers: int = 1) -> None:
        """Raises EngineError for several workers."""
        if workers > 1:
            raise EngineError(f"--workers {workers}: engine in_line has one; leave it out, or name another")
        super().__init__(workers)

    def outcomes(self, run: Callable[[Job], JobOutcome], jobs: Sequence[Job]) -> Generator[JobOutcome]:
        """Run the jobs in their order."""
        yield from map(run, jobs)
