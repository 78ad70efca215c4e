"""The protocols of the callables that report what a long operation does."""

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol


class Report(Protocol):
    """Receives one line of text for the user, without a line end."""

    def __call__(self, line: str, /) -> object:
        """Report a line."""


class Progress(Protocol):
    """Receives how many units of work are done, and how many there are in all."""

    def __call__(self, done: int, total: int, /) -> object:
        """Report that `done` of `total` units are done."""


class Display(Protocol):
    """Where progress is shown, such as a terminal."""

    def count(self, what: str) -> AbstractContextManager[Progress]:
        """Show how many are done of what is counted, such as "requests", as long as the block lasts."""

    def training_callbacks(self) -> list[Any]:
        """The `Callback`s that show a training."""


DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)
"""The display of the command that runs; None in a program, whose notebook shows progress itself."""
