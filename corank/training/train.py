"""Training: one pass over the batches of an epoch after another, resumable at any step."""

import time
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from corank.batches.reader import Reader
from corank.core.calibration import fit
from corank.core.errors import DivergedError
from corank.data.dataset import PackedDataset
from corank.evaluation.inputs import exposed_inputs
from corank.evaluation.predict import Predictions, predict
from corank.evaluation.stage_order import Calibrators
from corank.metrics.metric import validation_metrics
from corank.training.checkpoints.training_state import held_buckets, model_state, restore_model
from corank.training.device import keep_freed_memory
from corank.training.run import Run
from corank.training.trainer import Trainer

LOG_EVERY = 20
"""Optimiser steps between reports of the losses: reading a loss waits for the step to end."""


class Watcher(Protocol):
    """Receives the progress of a training."""

    def step(self, done: int, steps: int, losses: dict[str, float], candidates_per_second: float) -> None:
        """Receive the means of the losses, after `done` of the epoch's `steps`; called every LOG_EVERY steps."""

    def epoch(self, epoch: int, figures: dict[str, float | None]) -> None:
        """Receive the validation figures of an epoch, counted from 1, by `STAGE.LABEL.METRIC`."""


class SilentWatcher:
    """A watcher that ignores what it receives."""

    def step(self, done: int, steps: int, losses: dict[str, float], candidates_per_second: float) -> None:
        """Ignore the losses."""

    def epoch(self, epoch: int, figures: dict[str, float | None]) -> None:
        """Ignore the figures."""


def train_run(run: Run, packed: PackedDataset, watcher: Watcher, resume: bool = False) -> dict[str, Any]:
    """Train a run to its end and write its model.

    Args:
        resume: continue from the latest checkpoint, to the same weights as an unbroken run; a finished run is left
            as it is.

    Returns the validation figures of the epoch that was kept, and the epoch. Raises CheckpointError, DataError.
    """
    if resume and run.finished:
        return _kept_figures(run.trained(packed).facts)
    keep_freed_memory()
    trainer = Trainer(run, packed)
    if resume and run.latest.exists:
        trainer.load()
    with SummaryWriter(str(run.folder / "events"), purge_step=trainer.progress.step) as board:
        while not _has_ended(trainer):
            _run_epoch(trainer, watcher, board)
    return _finish(trainer)


def _has_ended(trainer: Trainer) -> bool:
    stop = trainer.config.train.early_stop
    stopped = stop is not None and trainer.progress.worse >= stop.patience
    return stopped or trainer.progress.epoch >= trainer.epochs


def _run_epoch(trainer: Trainer, watcher: Watcher, board: SummaryWriter) -> None:
    """Train one epoch, from its first batch or where a checkpoint was taken, and validate."""
    progress, every = trainer.progress, trainer.config.train.checkpoint_every
    reader = trainer.reader
    for means, speed in _run_steps(trainer, reader):
        progress.batch += 1
        if progress.step % LOG_EVERY == 0 or progress.batch == len(reader):
            losses = {name: float(value) for name, value in means.items()}
            _refuse_divergence(losses, trainer)
            watcher.step(progress.batch, len(reader), losses, speed)
            for name, value in losses.items():
                board.add_scalar(f"loss/{name}", value, progress.step)
            board.add_scalar("candidates_per_second", speed, progress.step)
        if progress.step % every == 0 and progress.batch < len(reader):
            trainer.save()
    learners = trainer.learners()
    progress.epoch, progress.batch = progress.epoch + 1, 0
    trainer.settle()
    figures = _validate(trainer, board)
    trainer.save()
    # figures of a stage that has not begun to learn say nothing
    learnt = {n: v for n, v in figures.items() if None in learners or n.partition(".")[0] in learners}
    watcher.epoch(progress.epoch, learnt)


def _validate(trainer: Trainer, board: SummaryWriter) -> dict[str, float | None]:
    """Compute and record the validation figures of an epoch, and keep its weights if they are the best."""
    progress, figures = trainer.progress, _figures(trainer)
    progress.figures.append(figures)
    for name, figure in figures.items():
        board.add_scalar(f"valid/{name}", float("nan") if figure is None else figure, progress.step)
    _keep_best(trainer, figures)
    return figures


def _run_steps(trainer: Trainer, reader: Reader) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """Take the remaining steps of the epoch. Yields the losses of each, and the candidates per second so far."""
    began, candidates = time.perf_counter(), 0
    for batch in reader.read_shuffled(trainer.progress.epoch, trainer.progress.batch):
        means = trainer.step(batch.to(trainer.device))
        candidates += len(batch)
        yield means, candidates / (time.perf_counter() - began)


def _refuse_divergence(losses: dict[str, float], trainer: Trainer) -> None:
    for name, value in losses.items():
        if value != value:
            raise DivergedError(
                f"{trainer.run.folder}: loss {name} became NaN by step {trainer.progress.step}; "
                "lower train.table.lr or the stages' lr, or look for extreme values among the number features"
            )


def _predict_valid(trainer: Trainer) -> Predictions:
    exposed = {len(trainer.config.data.levels) - 1: None}
    model = trainer.shipped()
    return predict(model, trainer.packed, "valid", exposed, names=model.networks)


def _figures(trainer: Trainer) -> dict[str, float | None]:
    """The validation figures of the model to be shipped, by `STAGE.LABEL.METRIC`."""
    predictions = _predict_valid(trainer)
    figures: dict[str, float | None] = {}
    for name, by_label in predictions.logits.items():
        for label in by_label:
            inputs = exposed_inputs(predictions, name, label)
            for metric in validation_metrics().values():
                measure = metric.measure(inputs)
                figures[f"{name}.{label}.{metric.name}"] = None if measure is None else measure.value()
    return figures


def _keep_best(trainer: Trainer, figures: dict[str, float | None]) -> None:
    progress, stop = trainer.progress, trainer.config.train.early_stop
    figure = None if stop is None else figures[stop.metric]
    value = None if stop is None or figure is None else stop.merit(figure)
    if value is None or progress.best is None or value > progress.best:
        progress.best, progress.best_epoch, progress.worse = value, progress.epoch, 0
        trainer.writer.write(trainer.run.best, model_state(trainer.shipped(), {"epoch": progress.epoch}))
    else:
        progress.worse += 1


def _finish(trainer: Trainer) -> dict[str, Any]:
    """Fit the calibrators of the best epoch's weights and write the trained model."""
    trainer.writer.wait()
    best, model = trainer.run.best, trainer.shipped()
    restore_model(best.load(held_buckets(model)), model, best.path)
    predictions = _predict_valid(trainer)
    rows = predictions.exposed
    calibrators: Calibrators = {
        stage.name: {
            label: fit(
                predictions.logits[stage.name][label][rows],
                predictions.labels[label][rows],
                predictions.weight[rows],
            )
            for label in stage.labels
        }
        for stage in trainer.config.stages
    }
    progress = trainer.progress
    facts = {"epoch": progress.best_epoch, "step": progress.step, "figures": progress.figures}
    trainer.run.finish(trainer.packed, trainer.shipped(), calibrators, facts, trainer.writer)
    return _kept_figures(facts)


def _kept_figures(facts: dict[str, Any]) -> dict[str, Any]:
    """The epoch whose weights a run's model has, and its validation figures."""
    return {"epoch": facts["epoch"], **facts["figures"][facts["epoch"] - 1]}
