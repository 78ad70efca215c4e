"""Training: one pass over the batches of an epoch after another, resumable at any step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from corank.batches.ahead import move_batches, pair_batches
from corank.batches.reader import Reader
from corank.core.calibration import Platt, fit
from corank.core.errors import DivergedError
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import ALONE, Ranks
from corank.evaluation.predict import predict_by_ranks
from corank.evaluation.predictions import Calibrators, Predictions
from corank.evaluation.table import validation_figures
from corank.models.joint import JointModel
from corank.training.boosted_trees import add_tree_scores, fit_stage_trees
from corank.training.callbacks import (
    Callback,
    CallbackList,
    TensorBoard,
    TrainingCheckpoint,
    TrainingEnd,
    TrainingEvaluation,
    TrainingLog,
    TrainingPlan,
    TrainingStart,
    learnt,
)
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.training_state import held_buckets, model_state, restore_model
from corank.training.device import keep_freed_memory
from corank.training.run import Run
from corank.training.trainer import Trainer
from corank.training.warm_start_plan import WarmStartPlan
from corank.training.weight_transfer import warm_start

LOG_EVERY = 20
"""Optimiser steps between reports of the losses: reading a loss waits for the step to end."""
FIRST_STEPS, PATIENT_STEPS = 50, 100
"""Optimiser steps before which an epoch is kept only until the next one, and before which none counts against the
patience; those of runs that weights were taken over from included. An epoch of a small log has eight steps, and its
validation split may prefer a model that has hardly learnt: over 23 drawn logs of 140 to 1,000 requests the kept epochs
were .004 better in AUC on other requests."""


@dataclass(frozen=True)
class MidEpochChecks:
    """Validation within epochs, for a caller that may end a training early by raising an error.

    The weights are those of the step, without `train.average`; the training continues as if nothing had been computed.
    """

    per_epoch: int
    """Parts of an epoch, after each of which but the last the figures are computed; the last ends the epoch."""
    receive: Callable[[float, dict[str, float | None]], None]
    """Takes how many epochs are done, such as 0.5, and the figures by `STAGE.LABEL.METRIC`."""

    def due(self, batch: int, batches: int) -> bool:
        """Whether a part ends with a batch, counted from 1, of an epoch of so many."""
        ends = {round(part * batches / self.per_epoch) for part in range(1, self.per_epoch)}
        return batch < batches and batch in ends


def train_run(
    run: Run,
    packed: PackedDataset,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    ranks: Ranks = ALONE,
    checks: MidEpochChecks | None = None,
    plan: WarmStartPlan | None = None,
) -> dict[str, Any]:
    """Train a run to its end and write its model; a collective of all ranks.

    Args:
        run: the run, whose folder has been made.
        packed: its packed data.
        callbacks: called while it runs, after TensorBoard's; on the first rank alone.
        resume: continue from the latest checkpoint, to the same weights as an unbroken run; a finished run is left
            as it is.
        ranks: the processes that train it together.
        checks: validation within epochs; of a training by one process.
        plan: what a training that is not resumed takes over from an earlier run.

    Returns the facts of the trained model: `epoch` that was kept, from 1, and `figures` of every epoch. Raises
    CheckpointError, DataError, and what a callback raises.
    """
    finished, begun = ranks.share([run.finished, run.has_state], "state of the run")
    if resume and finished:
        return run.trained(packed).facts
    keep_freed_memory()
    packed = add_tree_scores(run, packed, ranks)
    trainer = Trainer(run, packed, ranks)
    if resume and begun:
        trainer.load()
    else:
        if plan is not None:
            warm_start(plan, trainer)
        fit_stage_trees([trainer.model, trainer.shipped()], packed, run.config.train.seed, ranks)
    called = CallbackList([TensorBoard(), *callbacks] if ranks.first else [])
    try:
        called.on_start(TrainingStart(run, _plan(trainer)))
        if not trainer.epochs and not trainer.progress.figures:
            _keep_best(trainer)  # weights that are taken over, of which no epoch is trained
            _save(trainer, called)
        while not _has_ended(trainer):
            _run_epoch(trainer, called, checks)
        facts = _finish(trainer)
    except BaseException as error:
        called.on_end(TrainingEnd(run, None, {}, error))
        raise
    called.on_end(TrainingEnd(run, facts["epoch"], facts["figures"][facts["epoch"] - 1]))
    return facts


def _plan(trainer: Trainer) -> TrainingPlan:
    progress = trainer.progress
    left = 0 if _has_ended(trainer) else len(trainer.reader)
    return TrainingPlan(
        trainer.epochs, left, progress.epoch, progress.batch, progress.step, trainer.ranks.world
    )


def _has_ended(trainer: Trainer) -> bool:
    stop = trainer.config.train.early_stop
    stopped = stop is not None and trainer.progress.worse >= stop.patience
    return stopped or trainer.progress.epoch >= trainer.epochs


def _run_epoch(trainer: Trainer, callbacks: Callback, checks: MidEpochChecks | None) -> None:
    """Train one epoch, from its first batch or where a checkpoint was taken, and validate."""
    progress, every = trainer.progress, trainer.config.train.checkpoint_every
    reader = trainer.reader
    for means, speed in _run_steps(trainer, reader):
        progress.batch += 1
        if progress.step % LOG_EVERY == 0 or progress.batch == len(reader):
            losses = {name: float(value) for name, value in means.items()}
            _refuse_divergence(losses, trainer)
            parameters = {
                f"{loss}/{stage}": value.item()
                for stage in trainer.model.networks
                for loss, value in trainer.model.loss_parameters(stage).items()
            }
            at = (progress.epoch + 1, progress.batch, len(reader), progress.step)
            callbacks.on_log(TrainingLog(*at, losses, speed, parameters))
        if progress.step % every == 0 and progress.batch < len(reader):
            _save(trainer, callbacks)
        if checks is not None and checks.due(progress.batch, len(reader)):
            done = progress.epoch + progress.batch / len(reader)
            checks.receive(done, learnt(_figures(trainer, trainer.model), _named(trainer.learners())))
    learners = trainer.learners()
    progress.epoch, progress.batch = progress.epoch + 1, 0
    trainer.take_average()
    callbacks.on_evaluate(_validate(trainer, learners))
    _save(trainer, callbacks)


def _save(trainer: Trainer, callbacks: Callback) -> None:
    """Write a checkpoint, and publish it if the run lies in object storage."""
    trainer.save()
    if trainer.run.publish is not None:
        trainer.writer.wait()
        trainer.run.publish()
    progress = trainer.progress
    callbacks.on_checkpoint(
        TrainingCheckpoint(trainer.run.latest, progress.epoch, progress.batch, progress.step)
    )


def _validate(trainer: Trainer, learners: list[str | None]) -> TrainingEvaluation:
    """Compute the validation figures of an epoch, and keep its weights if they are the best."""
    progress, figures = trainer.progress, _keep_best(trainer)
    best = progress.best_epoch == progress.epoch
    return TrainingEvaluation(progress.epoch, trainer.epochs, progress.step, figures, _named(learners), best)


def _named(learners: list[str | None]) -> list[str] | None:
    """The stages that learn; None if all learn in one update."""
    return [name for name in learners if name is not None] or None


def _run_steps(trainer: Trainer, reader: Reader) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """Take the remaining steps of the epoch. Yields the losses of each, and the candidates per second so far."""
    began, candidates = time.perf_counter(), 0
    progress = trainer.progress
    read = reader.read_shuffled(progress.epochs_before + progress.epoch, progress.batch)
    moved = move_batches(read, trainer.device, trainer.prepare, ahead=not reader.gathers)
    for batch, following in pair_batches(moved, ahead=not trainer.ranks.alone):
        trainer.ranks.log.step = trainer.progress.step
        means = trainer.step(batch, following)
        # ranks have about as many candidates each
        candidates += len(batch) * trainer.ranks.world
        yield means, candidates / (time.perf_counter() - began)


def _refuse_divergence(losses: dict[str, float], trainer: Trainer) -> None:
    for name, value in losses.items():
        if value != value:
            raise DivergedError(
                f"{trainer.run.folder}: loss {name} became NaN by step {trainer.progress.step}; "
                "lower train.table.lr or the stages' lr, or look for extreme values among the number features"
            )


def _predict_valid(trainer: Trainer, model: JointModel) -> Predictions | None:
    """The predictions of the exposed validation rows, by all ranks; on the first rank alone."""
    exposed = {len(trainer.config.data.levels) - 1: None}
    return predict_by_ranks(model, trainer.packed, "valid", trainer.ranks, exposed, names=model.networks)


def _figures(trainer: Trainer, model: JointModel) -> dict[str, float | None]:
    """The validation figures of a model, by `STAGE.LABEL.METRIC`, if there is such a split: the same on all ranks."""
    if "valid" not in trainer.packed.data.split_names:
        return {}
    predictions = _predict_valid(trainer, model)
    return trainer.ranks.first_does(lambda: _measure(predictions), "validation figures")


def _measure(predictions: Predictions | None) -> dict[str, float | None]:
    assert predictions is not None
    return {figure.name: figure.value for figure in validation_figures(predictions)}


def _keep_best(trainer: Trainer) -> dict[str, float | None]:
    """Compute validation figures, which are returned, and keep the weights if they are the best."""
    progress, stop = trainer.progress, trainer.config.train.early_stop
    figures = _figures(trainer, trainer.shipped())
    progress.figures.append(figures)
    figure = None if stop is None else figures[stop.metric]
    value = None if stop is None or figure is None else stop.merit(figure)
    if value is None or progress.best is None or value > progress.best:
        progress.best = value if progress.step >= FIRST_STEPS else None
        progress.best_epoch, progress.worse = progress.epoch, 0
        trainer.writer.write(trainer.run.best, model_state(trainer.shipped(), {"epoch": progress.epoch}))
    elif progress.step >= PATIENT_STEPS:
        progress.worse += 1
    return figures


def _finish(trainer: Trainer) -> dict[str, Any]:
    """Fit the calibrators of the best epoch's weights and write the trained model."""
    trainer.writer.wait()
    best, model = trainer.run.best, trainer.shipped()
    restore_model(load(best, held_buckets(model)), model, best)
    calibrators = _fit_calibrators(trainer, model)
    progress = trainer.progress
    facts = {"epoch": progress.best_epoch, "step": progress.step, "figures": progress.figures}
    trainer.run.finish(trainer.packed, model, calibrators, facts, trainer.writer)
    return facts


def _fit_calibrators(trainer: Trainer, model: JointModel) -> Calibrators:
    """Fit the calibrators of all stages; they change nothing if there is no validation split. A collective."""
    if "valid" not in trainer.packed.data.split_names:
        return {stage.name: {label: Platt() for label in stage.labels} for stage in trainer.config.stages}
    predictions = _predict_valid(trainer, model)
    fitted = trainer.ranks.first_does(lambda: _calibrate(trainer, predictions), "calibration")
    return {
        stage: {label: Platt(**platt) for label, platt in labels.items()} for stage, labels in fitted.items()
    }


def _calibrate(trainer: Trainer, predictions: Predictions | None) -> dict[str, dict[str, dict[str, float]]]:
    """Fit the calibrator of each label of each stage, on the exposed candidates of the validation split."""
    assert predictions is not None
    rows = predictions.exposed

    def fit_label(stage: str, label: str) -> dict[str, float]:
        logits = predictions.logits[stage][label][rows]
        return asdict(fit(logits, predictions.labels[label][rows], predictions.weight[rows]))

    return {
        stage.name: {label: fit_label(stage.name, label) for label in stage.labels}
        for stage in trainer.config.stages
    }
