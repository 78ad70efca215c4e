"""Progress in a notebook: a bar of what is counted, and a training with its losses and the metrics of every epoch.

It is the output of a cell, which IPython's own display updates: no widgets are needed, and what was shown last stays in
the saved notebook.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any

from corank.core.formatting import format_metric
from corank.core.reports import DISPLAY, Progress
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class CellOutput:
    """HTML in the output of a cell, which is shown when it is made and replaced later."""

    def __init__(self, text: str) -> None:
        self._display: Any = import_module("IPython.display").DisplayHandle()  # every notebook has it
        self._display.display(_Html(text))

    def update(self, text: str) -> None:
        """Show other HTML in its place."""
        self._display.update(_Html(text))


class _Html:
    """HTML that a notebook shows; elsewhere its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


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
    display = DISPLAY.get() or (NotebookDisplay() if in_notebook() else None)
    if display is None:
        yield progress
        return
    with display.count(what) as advance:

        def tell(done: int, total: int) -> None:
            progress(done, total)
            advance(done, total)

        yield tell


def training_callbacks() -> list[Callback]:
    """What shows a training on the display of the command, or of the notebook."""
    display = DISPLAY.get() or (NotebookDisplay() if in_notebook() else None)
    return [] if display is None else display.training_callbacks()


class NotebookDisplay:
    """Shows progress in the output of a notebook's cell."""

    @contextmanager
    def count(self, what: str) -> Iterator[Progress]:
        """Show a bar, which ends as a line."""
        bar = _Bar(what)
        try:
            yield bar.update
        finally:
            bar.end()

    def training_callbacks(self) -> list[Callback]:
        """A table of every epoch's metrics."""
        return [NotebookProgress()]


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


SHOWN = ("auc", "gauc")
"""Metrics of every epoch that are shown; the result has all."""


class NotebookProgress(Callback):
    """Shows a training in the output of a notebook's cell. `corank.train` adds one there."""

    def __init__(self) -> None:
        self._output: CellOutput | None = None
        self._bar, self._rows = "", list[str]()
        self._began = 0.0

    def on_start(self, event: TrainingStart) -> None:
        """Show an empty bar."""
        self._began = time.monotonic()
        self._bar = f"{escape(event.run.config.name)}: training"
        self._output = CellOutput(self.html())

    def on_log(self, event: TrainingLog) -> None:
        """Move the bar, and show the losses."""
        losses = "  ".join(f"{escape(name)} {value:.4f}" for name, value in event.losses.items())
        self._bar = (
            f'epoch {event.epoch} <progress value="{event.batch}" max="{event.batches}"></progress> '
            f"{event.batch}/{event.batches}  {losses}  {event.candidates_per_second:,.0f} candidates/s"
        )
        self._update()

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Add the metrics of an epoch."""
        shown = {n: v for n, v in event.learnt.items() if n.rpartition(".")[2] in SHOWN and v is not None}
        cells = "".join(f"<td>{escape(n)} {format_metric(v)}</td>" for n, v in shown.items())
        self._rows.append(f"<tr><td>epoch {event.epoch}{' *' if event.best else ''}</td>{cells}</tr>")
        self._update()

    def on_end(self, event: TrainingEnd) -> None:
        """Say how it ended."""
        seconds = time.monotonic() - self._began
        end = f"kept epoch {event.epoch}" if event.error is None else f"ended by {type(event.error).__name__}"
        self._bar = f"{end} after {seconds:,.0f} s: {escape(str(event.run.folder))}"
        self._update()

    def html(self) -> str:
        """What is shown now."""
        return f"<div>{self._bar}</div><table>{''.join(self._rows)}</table>"

    def _update(self) -> None:
        if self._output is not None:
            self._output.update(self.html())
