"""The protocols of the callables that report what a long operation does."""

from typing import Protocol


class Report(Protocol):
    """Receives one line of text for the user, without a line end."""

    def __call__(self, line: str, /) -> object:
        """Report a line."""


class Progress(Protocol):
    """Receives how many units of work are done, and how many there are in all."""

    def __call__(self, done: int, total: int, /) -> object:
        """Report that `done` of `total` units are done."""
