"""A page that shows a training while it runs: it refreshes itself, and loads nothing from a network."""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from corank.analysis.html import Html, page, section, table, text
from corank.analysis.live.line_chart import CSS, Line, charts, line_chart
from corank.analysis.live.training_state import Curve, TrainingState
from corank.analysis.plots import smooth
from corank.core.errors import CorankError
from corank.core.files import atomic_file
from corank.core.formatting import format_metric
from corank.core.types import Report
from corank.training.callbacks import Callback, TrainingEnd, TrainingEvaluation, TrainingLog, TrainingStart
from corank.training.tracking.record_writer import say_on_stderr

REFRESH_S = 5
"""Seconds after which a browser reads the page again."""
PAUSE_S = 5.0
"""Seconds between two versions of the page, at least."""


class TrainingPage(Callback):
    """Writes a page with losses, candidates/s, metrics by epoch and the remaining time, every few seconds.

    A reader finds the old page or the new one, never a part. The last one says how the training ended, and refreshes
    no more.
    """

    def __init__(self, path: Path, say: Report = say_on_stderr) -> None:
        """
        Args:
            path: of the HTML file.
            say: takes a line if the file cannot be written any more; the training goes on.
        """
        self.path, self.say = path, say
        self._state: TrainingState | None = None
        self._written_at, self._has_failed = 0.0, False

    def on_start(self, event: TrainingStart) -> None:
        """Write the first page. Raises CorankError if it cannot be written."""
        self._state = TrainingState.begin(event.run, event.plan)
        try:
            self._write("training")
        except OSError as error:
            raise CorankError(f"{self.path}: cannot be written: {error}; name another with --page") from None

    def on_log(self, event: TrainingLog) -> None:
        """Take the losses."""
        assert self._state is not None
        self._state.log(event)
        if time.monotonic() - self._written_at >= PAUSE_S:
            self._try_to_write("training")

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Take the metrics."""
        assert self._state is not None
        self._state.evaluate(event)
        if time.monotonic() - self._written_at >= PAUSE_S:
            self._try_to_write("training")

    def on_end(self, event: TrainingEnd) -> None:
        """Write the last page."""
        if self._state is None:
            return  # the first page could not be written
        if event.error is None:
            ended = f"ended; the model has the weights of epoch {event.epoch}"
        elif isinstance(event.error, Exception):
            ended = f"failed: {type(event.error).__name__}: {event.error}"
        else:
            ended = "was interrupted; corank train --resume goes on"
        self._try_to_write(ended, running=False)

    def _try_to_write(self, what: str, running: bool = True) -> None:
        try:
            self._write(what, running)
        except OSError as error:
            if not self._has_failed:
                self.say(f"{self.path}: cannot be written: {error}; the training goes on")
            self._has_failed = True

    def _write(self, what: str, running: bool = True) -> None:
        assert self._state is not None
        content = training_page(self._state, what, running)
        with atomic_file(self.path) as partial:
            partial.write_text(content, encoding="utf-8")
        self._written_at = time.monotonic()


def training_page(state: TrainingState, what: str, running: bool) -> Html:
    """The page of a training.

    Args:
        state: what is known of the training.
        what: what it does, or how it ended.
        running: whether the page is to refresh itself.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    left = (
        f", {_duration(state.remaining_s)} left at most" if running and state.remaining_s is not None else ""
    )
    lead = f"{what[0].upper()}{what[1:]}{left}. As of {now}."
    losses = {name[5:]: curve for name, curve in state.curves.items() if name.startswith("loss/")}
    shown = [_smooth_chart(name, curve) for name, curve in losses.items()]
    speed = state.curves.get("candidates_per_second")
    progress = Html(
        f'<progress max="{state.all_batches}" value="{state.batches_done}" aria-label="progress"></progress>\n'
    )
    parts = [
        progress,
        text(
            f"Epoch {state.epoch} of {state.plan.epochs}, step {state.step:,}, "
            f"{state.candidates_per_second:,.0f} candidates per second, {_duration(state.elapsed_s)} so far."
        ),
        section("Losses", charts(*shown) if shown else text("No step is logged yet.")),
        section("Validation", *_validation(state)),
    ]
    if speed is not None:
        drawn = line_chart("candidates per second", {"": Line(speed.x, speed.y)}, "step")
        parts.append(section("Speed", charts(drawn)))
    return page(f"{state.name}: training", lead, *parts, css=CSS, refresh_s=REFRESH_S if running else None)


def _smooth_chart(name: str, curve: Curve) -> Html:
    mean: list[float] = smooth(np.array(curve.y)).tolist()
    return line_chart(name, {"": Line(curve.x, mean, curve.y)}, "step")


def _validation(state: TrainingState) -> list[Html]:
    """The AUC of the stages by epoch, a chart a label, and all metrics of the last epoch of each stage."""
    if not state.metrics:
        return [text("No epoch has been validated yet.")]
    by_label: dict[str, dict[str, Line]] = {}
    rows: dict[str, dict[str, str]] = {}
    for name, curve in state.metrics.items():
        stage, label, metric = name.split(".")
        rows.setdefault(f"{stage} {label}", {})[metric] = format_metric(curve.y[-1])
        if metric == "auc":
            by_label.setdefault(label, {})[stage] = Line(curve.x, curve.y, dots=True)
    drawn = [line_chart(f"AUC of {label}", lines, "epoch") for label, lines in by_label.items()]
    header = list(dict.fromkeys(metric for found in rows.values() for metric in found))
    figures = table(
        ["last epoch", *header],
        [[name, *(found.get(metric, "-") for metric in header)] for name, found in rows.items()],
    )
    best = [] if state.best_epoch is None else [text(f"Best epoch so far: {state.best_epoch}.")]
    return [charts(*drawn), figures, *best]


def _duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
