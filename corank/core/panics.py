"""Panics of the libraries that are written in Rust, such as polars: they derive from BaseException alone."""

from contextlib import ContextDecorator

_STOPS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends the process, or a generator."""


class PanicError(RuntimeError):
    """A library has met a fault of its own, and reports it as what is no Exception."""


class panics_as_errors(ContextDecorator):  # noqa: N801
    """Raise PanicError in place of what is no Exception, unless the process is to stop. The block awaits nothing.

    Example:
        >>> with panics_as_errors():
        ...     raise BaseException("range.end <= self.size")
        Traceback (most recent call last):
            ...
        corank.core.panics.PanicError: BaseException: range.end <= self.size
    """

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and not issubclass(kind, (Exception, *_STOPS)):
            raise PanicError(f"{kind.__name__}: {error}") from error
