"""Progress of what is counted, such as requests that are scored, in a notebook."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

from corank.api.notebook.display import CellOutput, in_notebook
from corank.core.types import Progress

SECONDS = 0.1
"""Between two updates of a cell, at least."""


@contextmanager
def show_progress(what: str, progress: Progress) -> Iterator[Progress]:
    """Yield what a function reports its progress to: its caller's, and in a notebook a bar with the remaining time.

    The bar ends as a line that says how much was done, and how long it took.

    Args:
        what: is counted, such as "requests".
        progress: the caller's.
    """
    if not in_notebook():
        yield progress
        return
    bar = _Bar(what)

    def tell(done: int, total: int) -> None:
        progress(done, total)
        bar.update(done, total)

    try:
        yield tell
    finally:
        bar.end()


class _Bar:
    """A bar in a cell's output, shown at the first count."""

    def __init__(self, what: str) -> None:
        self._what, self._done = escape(what), 0
        self._output: CellOutput | None = None
        self._began = self._shown = time.monotonic()

    def update(self, done: int, total: int) -> None:
        now, self._done = time.monotonic(), done
        if self._output is not None and now - self._shown < SECONDS and done < total:
            return
        self._shown = now
        left = (now - self._began) * (total - done) / max(done, 1)
        text = (
            f'<div>{self._what} <progress value="{done}" max="{total}"></progress> '
            f"{done:,}/{total:,}  {left:,.0f} s left</div>"
        )
        if self._output is None:
            self._output = CellOutput(text)
        else:
            self._output.update(text)

    def end(self) -> None:
        if self._output is not None:
            seconds = time.monotonic() - self._began
            self._output.update(f"<div>{self._done:,} {self._what} in {seconds:,.1f} s</div>")
