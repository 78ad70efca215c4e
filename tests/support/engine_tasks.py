"""Functions that engines run in tests; workers import them."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.core.errors import DataError
from corank.core.reports import Progress
from corank.engine.pool import PoolEngine


def square(n: int) -> int:
    """Return n²."""
    return n * n


def refuse_seven(n: int) -> int:
    """Raise DataError for 7."""
    if n == 7:
        raise DataError("no seven")
    return n


def divide(n: int) -> float:
    """Divide 1 by n, with a mistake of the code at 0."""
    return 1 / n


def kill_worker(n: int) -> int:
    """Kill this process if n is 5."""
    if n == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@dataclass(frozen=True)
class KillOnce:
    """Kills its process at each third number, the first time that it gets it."""

    folder: Path

    def __call__(self, n: int) -> tuple[int, int]:
        mark = self.folder / str(n)
        if n % 3 == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return n, os.getpid()


def die(task: Any) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def read_threads(name: str) -> str | None:
    """Read a variable of the environment of the worker."""
    return os.environ.get(name)


@dataclass(frozen=True)
class KilledOnce:
    """Kills its process when it first gets a task, and is then the function."""

    function: Callable[[Any], Any]
    mark: Path

    def __call__(self, task: Any) -> Any:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(task)


class KillingPool(PoolEngine):
    """A pool of which each run loses a worker once."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        super().__init__(workers)
        self.folder, self.marks = folder, 0

    def run(self, function: Any, tasks: Any, progress: Progress = lambda done, total: None) -> list[Any]:
        """As `Engine.run`."""
        self.marks += 1
        return super().run(KilledOnce(function, self.folder / f"killed.{self.marks}"), tasks, progress)
