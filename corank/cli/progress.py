"""Progress of the commands on stderr: a bar on a terminal, else a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from corank.api.progress import Pace
from corank.cli.console import err, say
from corank.core.formatting import format_metric
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart

EVERY = 10
"""Seconds between two lines where there is no terminal."""


def _open_bar(what: str, count: str, *more: str, transient: bool = False) -> Progress:
    """A progress bar on stderr: what is done, how many, times, and more; none without a terminal."""
    end = (TimeElapsedColumn(), TimeRemainingColumn(), *map(TextColumn, more))
    columns = (TextColumn(what), BarColumn(bar_width=20), TextColumn(count), *end)
    return Progress(*columns, console=err, disable=not err.is_terminal, transient=transient)


class TrainingBar(Callback):
    """Shows a training: a progress bar with losses and candidates/s; without a terminal, a line every EVERY.

    After its first steps a line says how long it will take.
    """

    def __init__(self) -> None:
        self._pace = Pace()
        self._bar = _open_bar("{task.description}", "{task.completed}/{task.total}", "{task.fields[figures]}")
        self._task: TaskID | None = None
        self._printed_at = time.monotonic()

    def on_start(self, event: TrainingStart) -> None:
        """Show the bar."""
        self._pace.start(event)
        self._bar.start()

    def on_end(self, event: TrainingEnd) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_log(self, event: TrainingLog) -> None:
        """Show the losses, and numbers that they learn, after some of an epoch's steps."""
        if duration := self._pace.tell(event):
            say(f"training: {duration}")
        figures = "  ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
        figures += "".join(f"  {name} {value:.4f}" for name, value in event.loss_parameters.items())
        figures += f"  {event.candidates_per_second:,.0f} candidates/s"
        if self._task is None:
            self._task = self._bar.add_task(f"epoch {event.epoch}", total=event.batches, figures="")
        self._bar.update(self._task, completed=event.batch, figures=figures)
        if not err.is_terminal and time.monotonic() - self._printed_at > EVERY:
            self._printed_at = time.monotonic()
            say(f"epoch {event.epoch} step {event.batch}/{event.batches}  {figures}")

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Print the validation figures of an epoch, a line a label, without losses and what is not defined."""
        from corank.metrics.metric import validation_metrics

        lower = {name for name, metric in validation_metrics().items() if metric.better == "lower"}
        lines: dict[str, str] = {}
        for name, value in event.learnt.items():
            label, _, metric = name.rpartition(".")
            if metric not in lower and value is not None:
                lines[label] = f"{lines.get(label, label)}  {metric} {format_metric(value)}"
        for line in lines.values() or ["no figure is defined"]:
            say(f"epoch {event.epoch} valid  {line}")
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of what is counted, such as "requests", on stderr, until the end; else a line every EVERY."""
    bar = _open_bar(what, "{task.completed:,}/{task.total:,}", transient=True)
    with bar:
        task, printed_at = bar.add_task(what, total=0), time.monotonic()

        def count(done: int, total: int) -> None:
            nonlocal printed_at
            bar.update(task, completed=done, total=total)
            if not err.is_terminal and time.monotonic() - printed_at > EVERY:
                printed_at = time.monotonic()
                say(f"{what}: {done:,}/{total:,}")

        yield count
