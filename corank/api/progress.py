"""Progress in a notebook: a bar of what is counted, and a training with its losses and the metrics of every epoch.

It is the output of a cell, which IPython's own display updates: no widgets are needed, and what was shown last stays in
the saved notebook.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from corank.core.formatting import format_metric, format_seconds
from corank.core.lazy import lazy
from corank.core.reports import DISPLAY, Display, Progress
from corank.training.callbacks import (
    Callback,
    TrainingEnd,
    TrainingEvaluation,
    TrainingLog,
    TrainingStart,
)

if TYPE_CHECKING:
    from corank.analysis.experiments import tree_baseline
    from corank.training.run import Run
else:  # loads torch, which trains when it is needed
    tree_baseline = lazy("corank.analysis.experiments.tree_baseline")


def describe_kept(run: "Run", epoch: int) -> str:
    """Say which epoch's weights a trained model has, and why these."""
    if not epoch:
        return "kept the weights that were taken over"
    stop = run.config.train.early_stop
    return f"kept epoch {epoch}, {'the last' if stop is None else f'the best by {stop.metric}'}"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class CellOutput:
    """HTML in the output of a cell, which is shown when it is first given and replaced later."""

    def __init__(self) -> None:
        self.shown = False
        self._display: Any = import_module("IPython.display")  # every notebook has it
        self._handle = self._display.DisplayHandle()

    def update(self, text: str) -> None:
        """Replace the shown HTML."""
        (self._handle.update if self.shown else self._handle.display)(self._display.HTML(text))
        self.shown = True


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
    display = _display()
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
    display = _display()
    return [] if display is None else display.training_callbacks()


def _display() -> Display | None:
    return DISPLAY.get() or (NotebookDisplay() if in_notebook() else None)


class NotebookDisplay:
    """Shows progress in the output of a notebook's cell."""

    @contextmanager
    def count(self, what: str) -> Iterator[Progress]:
        """Show a bar, which ends as a line."""
        with closing(_Bar(what)) as bar:
            yield bar.update

    def training_callbacks(self) -> list[Callback]:
        """A table of every epoch's metrics."""
        return [NotebookProgress()]


class _Bar:
    """A bar in a cell's output, shown at the first count."""

    def __init__(self, what: str) -> None:
        self._what, self._done, self._output = escape(what), 0, CellOutput()
        self._began = self._shown = time.monotonic()

    def update(self, done: int, total: int) -> None:
        now, self._done = time.monotonic(), done
        if self._output.shown and now - self._shown < SECONDS and done < total:
            return
        self._shown = now
        left = (now - self._began) * (total - done) / max(done, 1)
        self._output.update(
            f'<div>{self._what} <progress value="{done}" max="{total}"></progress> '
            f"{done:,}/{total:,}  {left:,.0f} s left</div>"
        )

    def close(self) -> None:
        if self._output.shown:
            seconds = time.monotonic() - self._began
            self._output.update(f"<div>{self._done:,} {self._what} in {seconds:,.1f} s</div>")


PACED = 20
"""Steps after the first reported ones, which also begin to read and to use torch, that tell how long a step takes."""
VALIDATED_FASTER = 3
"""Times as many candidates are validated a second as are trained."""


class Pace:
    """Tells how long a training takes in all, once its first steps are done."""

    def __init__(self) -> None:
        """Begin to count: what comes before the first step, such as packing, is named."""
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._told = False

    def start(self, event: TrainingStart) -> None:
        """Count what is ahead of a training whose first step comes next."""
        plan, packed = event.plan, event.run.packed()
        epochs = plan.epochs - plan.epochs_done
        self._before = time.monotonic() - self._began
        self._steps = epochs * plan.batches - plan.batches_done
        exposed = len(packed.data.levels) - 1
        shown = (np.count_nonzero(shard.level == exposed) for shard in packed.splits.get("valid", ()))
        self._validated = epochs * int(sum(shown))
        self._fitting = tree_baseline.expect_seconds(event.run, packed)

    def tell(self, event: TrainingLog) -> str:
        """Say how long the rest of a training takes at most, of what that consists, and what is behind.

        Empty before so many steps are done, and after it was said.
        """
        now = time.monotonic()
        step, began = self._first = self._first or (event.step, now)
        taken = event.step - step
        if self._told or taken < PACED:
            return ""
        self._told, each = True, (now - began) / taken
        validating = self._validated / (VALIDATED_FASTER * event.candidates_per_second)
        rest = self._steps * each + validating + self._fitting
        parts = [f"{self._steps:,} steps at {1000 * each:,.3g} ms"]
        parts += [f"validation {format_seconds(validating)}"] * (self._validated > 0)
        parts += [f"boosted trees {format_seconds(self._fitting)}"] * (self._fitting > 0)
        before = format_seconds(self._before)
        return f"about {format_seconds(rest)}: {', '.join(parts)}; reading and packing took {before}"


SHOWN = ("auc", "gauc")
"""Metrics of every epoch that are shown; the result has all."""


class NotebookProgress(Callback):
    """Shows a training in the output of a notebook's cell. `corank.train` adds one there."""

    def __init__(self) -> None:
        self._output, self._rows, self._pace = CellOutput(), list[str](), Pace()
        self._began, self._duration = 0.0, ""

    def on_start(self, event: TrainingStart) -> None:
        """Show an empty bar."""
        self._began = time.monotonic()
        self._pace.start(event)
        self._show(f"{escape(event.run.config.name)}: training")

    def on_log(self, event: TrainingLog) -> None:
        """Move the bar, and show the losses, and how long the training will take."""
        self._duration = self._pace.tell(event) or self._duration
        losses = "  ".join(f"{escape(name)} {value:.4f}" for name, value in event.losses.items())
        self._show(
            f'epoch {event.epoch} <progress value="{event.batch}" max="{event.batches}"></progress> '
            f"{event.batch}/{event.batches}  {losses}  {event.candidates_per_second:,.0f} candidates/s  "
            f"{self._duration}"
        )

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Add the metrics of an epoch."""
        shown = {n: v for n, v in event.learnt.items() if n.rpartition(".")[2] in SHOWN and v is not None}
        cells = "".join(f"<td>{escape(n)} {format_metric(v)}</td>" for n, v in shown.items())
        self._rows.append(f"<tr><td>epoch {event.epoch}{' *' if event.best else ''}</td>{cells}</tr>")
        self._show(self._bar)

    def on_end(self, event: TrainingEnd) -> None:
        """Say how it ended."""
        seconds = time.monotonic() - self._began
        failed = f"ended by {type(event.error).__name__}"
        end = failed if event.epoch is None else describe_kept(event.run, event.epoch)
        self._show(f"{end} after {seconds:,.0f} s: {escape(str(event.run.folder))}")

    def _show(self, bar: str) -> None:
        self._bar = bar
        self._output.update(f"<div>{bar}</div><table>{''.join(self._rows)}</table>")
