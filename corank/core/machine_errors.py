"""Errors of the machine, such as a full disk, as one line; and Ctrl-C."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corank.core.errors import DataError


def describe_machine_error(error: Exception) -> str | None:
    """Say in one line what the machine lacks or refuses; None if the error is none of the machine's.

    Example:
        >>> describe_machine_error(FileNotFoundError(2, "No such file or directory", "log.csv"))
        'log.csv: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    # polars and torch name the system's error in their own
    system = re.search(r"\(os error (\d+)\)", str(error))
    if system and type(error).__module__.startswith("polars"):
        return os.strerror(int(system[1]))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "not enough memory"
    return None


INTERRUPTED = 128 + signal.SIGINT
"""The exit status after Ctrl-C."""


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error, as where it stops a module of C that was being loaded."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


@contextmanager
def name_write_errors(out: Path) -> Iterator[None]:
    """Raise DataError, which names the folder, if the block cannot write to it."""
    try:
        yield
    except Exception as error:
        reason = describe_machine_error(error)
        if reason is None:
            raise
        raise DataError(f"{out}: cannot be written: {reason}; free space, or name another folder") from None
