"""Training: one pass over the batches of an epoch after another, resumable at any step."""

import ctypes
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.core.calibration import fit
from corank.core.errors import DivergedError
from corank.data.dataset import PackedDataset
from corank.evaluation.inputs import exposed_inputs
from corank.evaluation.predict import Predictions, predict
from corank.evaluation.stage_order import Calibrators
from corank.metrics.metric import validation_metrics
from corank.models.joint import JointModel
from corank.training.checkpoint import Checkpoint, load, save
from corank.training.optimisers import Average, optimisers
from corank.training.run import Run, load_own, origin, untrained

LOG_EVERY = 20
"""Optimiser steps between figures on screen and in TensorBoard: reading a loss waits for the step to end."""


class Watcher(Protocol):
    """Who wants to see a training go by."""

    def step(self, done: int, steps: int, losses: dict[str, float], candidates_per_second: float) -> None: ...

    def epoch(self, epoch: int, figures: dict[str, float | None]) -> None: ...


@dataclass
class Progress:
    """Where a training stands, beside its tensors."""

    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    worse: int = 0
    """Epochs since the best."""
    figures: list[dict[str, float | None]] = field(default_factory=list)
    """Validation figures by epoch."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(setting: str, on: torch.device) -> torch.dtype:
    """bf16 where asked for, or where `auto` finds a processor that multiplies it natively; else fp32."""
    native = on.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if setting == "bf16" or (setting == "auto" and native) else torch.float32


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory rather than return it: a step frees and takes the same sizes again and again."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


class Trainer:
    """A model under training, with all the state that a checkpoint must hold."""

    def __init__(self, run: Run, packed: PackedDataset) -> None:
        self.run, self.config, self.packed = run, run.config, packed
        self.device = device()
        torch.manual_seed(self.config.train.seed)
        self.model = untrained(self.config, packed).to(self.device)
        self.model.dtype = precision(self.config.train.precision, self.device)
        train = self.config.train
        self.optimisers = optimisers(self.model, train.table, train.stages)
        self.average = Average(self.model, train.average) if train.average else None
        self.total = self.config.total
        self.progress = Progress()

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimiser step; the mean of each loss, not yet read from the device."""
        # dropout draws from the step's own seed, so that a resumed run draws the same
        torch.manual_seed(self.config.train.seed * 1_000_003 + self.progress.step)
        means: dict[str, torch.Tensor] = {}
        for learner in self.learners():
            means |= self._update(batch, learner)
        if self.average is not None:
            self.average.after()
        self.progress.step += 1
        return means

    def learners(self) -> list[str | None]:
        """Who learns in a step: all at once (None), or stage by stage, teachers first."""
        last_first = [n.name for n in reversed([*self.config.stages, *self.config.teachers])]
        match self.config.train.mode:
            case "joint":
                return [None]
            case "alternate":
                return [name for name in last_first if self.total.select(name)]
            case "separate":
                return [last_first[self.progress.epoch // self.config.train.epochs]]

    def _update(self, batch: Batch, learner: str | None) -> dict[str, torch.Tensor]:
        for name, stage in self.model.networks.items():
            stage.train(learner in (None, name))  # one that only teaches drops nothing out
        outputs = self.model.outputs(batch, self.total.reads(learner))
        total, means = self.total(outputs, batch, self.progress.step, learner)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        total.backward()
        if self.average is not None:
            self.average.before()
        for optimiser in self.optimisers.values():
            optimiser.step()
        return means

    @property
    def epochs(self) -> int:
        train = self.config.train
        return train.epochs * (len(self.model.networks) if train.mode == "separate" else 1)

    @property
    def reader(self) -> Reader:
        """What the epoch reads: the candidates that those who learn in it learn from."""
        learners, train = self.learners(), self.config.train
        population = self.total.population(learners[0] if train.mode == "separate" else None)
        return Reader(
            self.packed,
            "train",
            train.requests,
            population,
            train.seed,
            attended=self.model.attended,
            sees_ranks=self.model.sees_ranks,
        )

    def settle(self) -> None:
        """At the end of a stage's epochs in mode separate: what is averaged is what it teaches, and changes no more."""
        train = self.config.train
        if self.average is not None and train.mode == "separate" and self.progress.epoch % train.epochs == 0:
            self.model.load_state_dict(self.average.model().state_dict())

    def shipped(self) -> JointModel:
        """The model that is evaluated and shipped: the average where there is one."""
        return self.model if self.average is None else self.average.model()

    def save(self) -> None:
        tensors = self.model.state_dict(prefix="model.")
        for name, optimiser in self.optimisers.items():
            for n, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{name}.{n}.{key}": torch.as_tensor(v) for key, v in state.items()}
        if self.average is not None:
            tensors |= {f"average.{n}": t for n, t in self.average.state().items()}
        save(
            self.run.latest,
            Checkpoint(tensors, origin(self.config, self.packed) | {"progress": asdict(self.progress)}),
        )

    def load(self) -> None:
        """Go on from the latest checkpoint. Raises CheckpointError if it is of another config or packing."""
        held = load_own(self.run.latest, "progress", self.config, self.packed)
        self.model.load_state_dict(held.under("model."))
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Any]] = {}
            for key, tensor in held.under(f"optimiser.{name}.").items():
                n, _, part = key.partition(".")
                # an optimiser that counts its steps in a Python int rounds otherwise with a tensor
                state.setdefault(int(n), {})[part] = tensor if tensor.is_floating_point() else tensor.item()
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        self.progress = Progress(**held.facts["progress"])
        if self.average is not None:
            self.average.step = self.progress.step
            for key, tensor in self.average.state().items():
                tensor.copy_(held.tensors[f"average.{key}"])


def train(run: Run, packed: PackedDataset, watcher: Watcher, resume: bool = False) -> dict[str, Any]:
    """Train a run to its end and write its model; the validation figures of the epoch that was kept.

    With `resume` it goes on from the latest checkpoint, to the same weights as an unbroken run, and a finished run
    is left as it is. Raises CheckpointError, DataError.
    """
    if resume and run.finished:
        return _kept(run.trained(packed).facts)
    keep_freed_memory()
    trainer = Trainer(run, packed)
    if resume and run.latest.is_file():
        trainer.load()
    with SummaryWriter(str(run.folder / "events"), purge_step=trainer.progress.step) as board:
        while not _ended(trainer):
            _epoch(trainer, watcher, board)
    return _finish(trainer)


def _ended(trainer: Trainer) -> bool:
    stop = trainer.config.train.early_stop
    stopped = stop is not None and trainer.progress.worse >= stop.patience
    return stopped or trainer.progress.epoch >= trainer.epochs


def _epoch(trainer: Trainer, watcher: Watcher, board: SummaryWriter) -> None:
    progress, every = trainer.progress, trainer.config.train.checkpoint_every
    reader = trainer.reader
    for means, speed in _steps(trainer, reader):
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
    figures = _validate(trainer)
    progress.figures.append(figures)
    for name, figure in figures.items():
        board.add_scalar(f"valid/{name}", float("nan") if figure is None else figure, progress.step)
    _keep_best(trainer, figures)
    trainer.save()
    # a stage that has not begun to learn has nothing to show
    learnt = {n: v for n, v in figures.items() if None in learners or n.partition(".")[0] in learners}
    watcher.epoch(progress.epoch, learnt)


def _steps(trainer: Trainer, reader: Reader) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """The steps that are left of the epoch, with the candidates a second since its start."""
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


def _valid(trainer: Trainer) -> Predictions:
    exposed = {len(trainer.config.data.levels) - 1: None}
    model = trainer.shipped()
    return predict(model, trainer.packed, "valid", exposed, names=model.networks)


def _validate(trainer: Trainer) -> dict[str, float | None]:
    predictions = _valid(trainer)
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
        save(trainer.run.best, Checkpoint(trainer.shipped().state_dict(), {"epoch": progress.epoch}))
    else:
        progress.worse += 1


def _finish(trainer: Trainer) -> dict[str, Any]:
    trainer.shipped().load_state_dict(load(trainer.run.best).tensors)
    predictions = _valid(trainer)
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
    trainer.run.finish(trainer.packed, trainer.shipped(), calibrators, facts)
    return _kept(facts)


def _kept(facts: dict[str, Any]) -> dict[str, Any]:
    """The epoch whose weights a run's model has, and its validation figures."""
    return {"epoch": facts["epoch"], **facts["figures"][facts["epoch"] - 1]}
