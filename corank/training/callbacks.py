"""Callbacks: hooks that a training calls while it runs, with one typed event each.

The hooks run in this order, on the first rank alone:

on_start        once, when the model is built and a resumed state is loaded
on_log          every 20 steps, and at the last of an epoch
on_evaluate     after an epoch, when its validation metrics are computed
on_checkpoint   when a checkpoint is written; it holds the metrics of on_evaluate
on_end          once, however the training ends

The figures of a training as TensorBoard reads them, in `events/` of the run's folder.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from corank.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from corank.training.run import Run


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a training."""

    epochs: int
    """Of the whole training; in `train.mode: separate` every stage has its own."""
    batches: int
    """Of the epoch that begins, or that a resumed training continues."""
    epochs_done: int = 0
    """Before this process began; 0 unless the training is resumed."""
    batches_done: int = 0
    """Of the current epoch, before this process began."""
    step: int = 0
    """Optimiser steps taken before this process began: events of later steps are repeated."""
    ranks: int = 1
    """Processes that train together."""


@dataclass(frozen=True)
class TrainingStart:
    """A training begins or continues."""

    run: "Run"
    """Its folder and config; `corank.config.plain(run.config)` are the hyper-parameters as plain values."""
    plan: TrainingPlan


@dataclass(frozen=True)
class TrainingLog:
    """Losses at a step."""

    epoch: int
    """The current one, counted from 1."""
    batch: int
    """Batches of the epoch that are done."""
    batches: int
    """Of the epoch."""
    step: int
    """Optimiser steps of the training that are done."""
    losses: Mapping[str, float]
    """The mean of each loss over the batch, by `STAGE.KIND`, unweighted."""
    candidates_per_second: float
    """Of all ranks, since this epoch was begun or resumed."""
    loss_parameters: Mapping[str, float] = field(default_factory=dict)
    """The numbers that losses have learnt, by `LOSS/STAGE`; empty unless a loss learns some."""

    @property
    def figures(self) -> dict[str, float]:
        """All of them as trackers name them: `loss/A`, `loss_parameter/A/STAGE`, `candidates_per_second`."""
        figures = {f"loss/{name}": value for name, value in self.losses.items()}
        figures |= {f"loss_parameter/{name}": value for name, value in self.loss_parameters.items()}
        return figures | {"candidates_per_second": self.candidates_per_second}


def learnt(metrics: Mapping[str, float | None], learners: Sequence[str] | None) -> dict[str, float | None]:
    """The metrics of the stages that learn now; of all if `learners` is None."""
    return {n: v for n, v in metrics.items() if learners is None or n.partition(".")[0] in learners}


@dataclass(frozen=True)
class TrainingEvaluation:
    """The validation metrics of an epoch; none if there is no split `valid`."""

    epoch: int
    """That has ended, counted from 1."""
    epochs: int
    """Of the whole training."""
    step: int
    """Optimiser steps of the training that are done."""
    metrics: Mapping[str, float | None]
    """By `STAGE.LABEL.METRIC`; None where a metric is not defined."""
    learners: Sequence[str] | None
    """The stages that learnt in the epoch; None for all."""
    best: bool
    """Whether the epoch is the best so far by `train.early_stop`; always without it."""

    @property
    def learnt(self) -> dict[str, float | None]:
        """The metrics of the stages that learnt: those of a stage whose turn is yet to come say nothing."""
        return learnt(self.metrics, self.learners)


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A checkpoint, from which the training can continue."""

    path: Path
    """A file; a folder if several ranks train."""
    epochs_done: int
    batches_done: int
    """Of the current epoch."""
    step: int
    """Optimiser steps of the training that are done."""


@dataclass(frozen=True)
class TrainingEnd:
    """A training has ended."""

    run: "Run"
    epoch: int | None
    """Whose weights the trained model has; None if an error ended the training."""
    metrics: Mapping[str, float | None]
    """The validation metrics of that epoch, by `STAGE.LABEL.METRIC`."""
    error: BaseException | None = None
    """Why the training ended early: an error, an interrupt, or what a callback raised."""


class Callback:
    """Base class of what is called while a model trains: override the hooks that you need.

    Give callbacks to `corank.train(..., callbacks=[...])`. They are called one after another, in the order given, by
    the first rank alone. What a hook raises ends the training: every callback's `on_end` is called with it, and it
    is raised to the caller; the run can be resumed from its last checkpoint.

    Example:
        >>> import corank
        >>> class ClickLoss(corank.Callback):
        ...     def on_log(self, event):
        ...         print(event.step, event.losses["rank.click"] < 2, event.candidates_per_second > 0)
        ...
        >>> result = corank.train("shop/config.yaml", callbacks=[ClickLoss()], folder="shop/runs/printed")
        15 True True
        20 True True
        30 True True
    """

    def on_start(self, event: TrainingStart) -> None:
        """Called once, before the first step. A finished run that is resumed calls no hook."""

    def on_log(self, event: TrainingLog) -> None:
        """Called with the losses: every 20 steps, and at the last step of an epoch."""

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Called with the validation metrics after an epoch, before its checkpoint is written."""

    def on_checkpoint(self, event: TrainingCheckpoint) -> None:
        """Called when a checkpoint has been handed to the disk."""

    def on_end(self, event: TrainingEnd) -> None:
        """Called once after `on_start` was, also if an error ends the training."""


class CallbackList(Callback):
    """Calls several callbacks in turn. An error names the callback and the hook that raised it, in a note."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)
        self._started: list[Callback] = []

    def on_start(self, event: TrainingStart) -> None:
        """Report the start to each."""
        for callback in self.callbacks:
            _call(callback, "on_start", event)
            self._started.append(callback)

    def on_log(self, event: TrainingLog) -> None:
        """Report the losses to each."""
        self._call_each("on_log", event)

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Report the metrics to each."""
        self._call_each("on_evaluate", event)

    def on_checkpoint(self, event: TrainingCheckpoint) -> None:
        """Report the checkpoint to each."""
        self._call_each("on_checkpoint", event)

    def on_end(self, event: TrainingEnd) -> None:
        """Report the end to each that has started, even if one of them raises; then raise that error.

        If an error ended the training, the caller sees that one: those raised here become its notes.
        """
        errors = []
        for callback in self._started:
            try:
                _call(callback, "on_end", event)
            except Exception as error:
                errors.append(error)
        if event.error is not None:
            for later in errors:
                event.error.add_note(f"then {later!r}: {'; '.join(later.__notes__)}")
        elif errors:
            raise errors[0]

    def _call_each(self, hook: str, event: object) -> None:
        for callback in self.callbacks:
            _call(callback, hook, event)


def _call(callback: Callback, hook: str, event: object) -> None:
    """Call a hook. What it raises gets a note that names callback and hook."""
    try:
        getattr(callback, hook)(event)
    except Exception as error:
        error.add_note(f"raised by the callback {type(callback).__name__}.{hook}")
        raise


def check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """List the callbacks. Raises ConfigError if one is not a callback, such as a class in place of an object."""
    callback_list = list(callbacks)
    for n, callback in enumerate(callback_list):
        if not isinstance(callback, Callback):
            what = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
            raise ConfigError(f"callbacks[{n}]: expected an object of corank.Callback; received {what}")
    return callback_list


class TensorBoard(Callback):
    """Writes the `figures` of each `TrainingLog`, such as `loss/NAME`, and metrics as `valid/STAGE.LABEL.METRIC`.

    Every training has one. The events of a resumed training are those of an unbroken one.
    """

    def __init__(self) -> None:
        self._board: SummaryWriter | None = None

    def on_start(self, event: TrainingStart) -> None:
        """Open the folder; what an interrupted training wrote after its last checkpoint is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        folder = event.run.folder / "events"
        # files are read by name, which begins with the second: two of one second may be read in the wrong order
        while any(f".{int(time.time()):010d}." in path.name for path in folder.glob("events.*")):
            time.sleep(0.05)
        self._board = SummaryWriter(str(folder), purge_step=event.plan.step)

    def on_log(self, event: TrainingLog) -> None:
        """Write losses and speed."""
        self._record(event.figures, event.step)

    def on_evaluate(self, event: TrainingEvaluation) -> None:
        """Write the metrics, NaN where one is not defined."""
        self._record({f"valid/{name}": value for name, value in event.metrics.items()}, event.step)

    def on_end(self, event: TrainingEnd) -> None:
        """Write what is left, and close."""
        if self._board is not None:
            self._board.close()

    def _record(self, figures: Mapping[str, float | None], step: int) -> None:
        assert self._board is not None
        for name, figure in figures.items():
            self._board.add_scalar(name, float("nan") if figure is None else figure, step)


def write_event_file(path: Path, figures: Mapping[str, float], step: int, seconds: float) -> None:
    """Write figures of one step into a file of its own, whole or not at all.

    Args:
        path: of the file; TensorBoard reads those of a folder whose names hold `tfevents`, in the order of the names.
        figures: by name.
        step: of all of them.
        seconds: when they were, since 1970.
    """
    from torch.utils.tensorboard import SummaryWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        board = SummaryWriter(folder)
        for name, figure in figures.items():
            board.add_scalar(name, figure, step, seconds)
        board.close()
        (written,) = Path(folder).iterdir()
        written.replace(path)
