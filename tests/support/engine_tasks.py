"""Functions that engines run in tests; workers import them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from corank.core.errors import DataError


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


def read_threads(name: str) -> str | None:
    """Read a variable of the environment of the worker."""
    return os.environ.get(name)
