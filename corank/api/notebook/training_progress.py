"""Progress of a training in a notebook: a bar with losses, and the metrics of every epoch below it.

What was shown last stays in the saved notebook.
"""

import time
from html import escape

from corank.api.notebook.display import CellOutput
from corank.core.formatting import format_metric
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart

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
