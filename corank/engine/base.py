"""Engines: what runs a function over a list of tasks, and the registry of them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from corank.core.errors import EngineError, PluginError
from corank.core.registry import Registry
from corank.core.types import Progress
from corank.engine.job import Job, JobOutcome, JobRunner, peak_memory

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

    address_form: ClassVar[str] = ""
    """The form of its addresses, such as 'HOST:PORT'; empty if it takes none."""

    def __init__(self, workers: int = 1, address: str | None = None) -> None:
        """
        Args:
            workers: how many tasks run at a time.
            address: of a cluster, of the form `address_form`.

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
        with closing(self.outcomes(JobRunner(function), jobs)) as outcomes:
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
    if not (inspect.isclass(part) and issubclass(part, Engine)):
        raise PluginError(f"{what}: expected a subclass of Engine; received {part!r}")
    if inspect.isabstract(part):
        lacking = ", ".join(f"{name}()" for name in sorted(part.__abstractmethods__))
        raise PluginError(f"{what}: {part.__name__} lacks {lacking} of Engine")
    try:
        inspect.signature(part).bind(1, None)
    except TypeError:
        raise PluginError(f"{what}: {part.__name__} is made as {part.__name__}(workers, address)") from None


ENGINES = Registry[type[Engine]]("engine", "corank.engines", "corank.engine", _check_engine)
"""Engine classes by name."""


def open_engine(name: str | None = None, workers: int = 1, address: str | None = None) -> Engine:
    """Start an engine; close it after use.

    Args:
        name: of the registry: `in_line`, `pool`, `ray` or a plug-in's. `pool` unless given, `in_line` for one worker.
        workers: how many tasks run at a time.
        address: of a cluster, for an engine that takes one.

    Raises PluginError if no engine has the name; EngineError if it cannot be started, or if a setting has no effect.

    Example:
        with open_engine("ray", workers=8) as engine: ...
    """
    if workers < 1:
        raise EngineError(f"--workers: expected at least 1; received {workers}")
    kind = ENGINES.find(name or ("in_line" if workers == 1 else "pool"))
    if address is not None and not kind.address_form:
        known = ", ".join(n for n in ENGINES if ENGINES[n].address_form)
        raise EngineError(f"--address: only an engine of several machines takes one: --engine {known}")
    return kind(workers, address)


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
