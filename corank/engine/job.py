"""A task on a worker: what it returns or raises, and the memory of the process that ran it."""

import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corank.core.errors import CorankError, EngineError
from corank.core.formatting import shorten

TRIES = 5
"""How often a task is run, at most, if its worker ends each time."""
_STATUS = Path("/proc/self/status")


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


@dataclass(frozen=True)
class JobRunner:
    """Runs a function on the task of a job. It is sent to each worker once, with all that the function holds."""

    function: Callable[[Any], Any]

    def __call__(self, job: Job) -> JobOutcome:
        result, error = None, None
        try:
            result = self.function(job.task)
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
