"""How tests wait: until something holds, never for a time to pass; so that no test depends on how fast a machine is."""

import inspect
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds within which what must happen has happened on any machine: a bound for what hangs, never an expectation."""
POLL = 0.01
"""Seconds between two looks."""


def eventually(condition: Callable[[], T | None]) -> T:
    """Look again and again until a condition holds. Fails after PATIENCE.

    Returns what the condition returned, which is true.

    Example:
        eventually((folder / "run.json").exists)
    """
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {_source(condition)}"
        time.sleep(POLL)
    return value


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
