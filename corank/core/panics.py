"""Panics of the libraries that are written in Rust, such as polars: they derive from BaseException alone."""

from collections.abc import Iterator
from contextlib import contextmanager

_STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends the process, or a generator."""


class PanicError(RuntimeError):
    """A library has met a fault of its own, and reports it as what is no Exception."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise PanicError in place of what is no Exception, unless the process is to stop. The block awaits nothing.

    Example:
        >>> with panics_as_errors():
        ...     raise BaseException("range.end <= self.size")
        Traceback (most recent call last):
            ...
        corank.core.panics.PanicError: BaseException: range.end <= self.size
    """
    try:
        yield
    except (Exception, *_STOPS):
        raise
    except BaseException as panic:
        raise PanicError(f"{type(panic).__name__}: {panic}") from panic
