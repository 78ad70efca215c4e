"""What a page knows of a training: curves of what was logged, metrics by epoch, and how far it is."""

import time
from dataclasses import dataclass, field
from typing import Self

from corank.training.callbacks import TrainingEvaluation, TrainingLog, TrainingPlan
from corank.training.run import Run

POINTS = 400
"""Points of a curve, at most: twice as many become as many means of two."""


@dataclass
class Curve:
    """Points in the order in which they were logged; neighbours become one, their mean, when there are too many."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    _per_point: int = 1
    """Values that a point is the mean of."""
    _held: list[tuple[float, float]] = field(default_factory=list)
    """Values that make no whole point yet."""

    def add(self, x: float, y: float) -> None:
        """Add a value."""
        self._held.append((x, y))
        if len(self._held) < self._per_point:
            return
        self.x.append(self._held[-1][0])
        self.y.append(sum(value for _, value in self._held) / len(self._held))
        self._held.clear()
        if len(self.x) == 2 * POINTS:
            self.x = self.x[1::2]
            self.y = [(a + b) / 2 for a, b in zip(self.y[::2], self.y[1::2], strict=True)]
            self._per_point *= 2


@dataclass
class TrainingState:
    """A training as its events tell it."""

    name: str
    plan: TrainingPlan
    batches: int
    """Of the current epoch."""
    epoch: int
    batch: int
    """Of the epoch, that are done."""
    step: int
    candidates_per_second: float = 0.0
    curves: dict[str, Curve] = field(default_factory=dict)
    """What was logged by step, by the names of `TrainingLog.figures`."""
    metrics: dict[str, Curve] = field(default_factory=dict)
    """`STAGE.LABEL.METRIC` → its values by epoch; of the stages that learnt in the epoch."""
    best_epoch: int | None = None
    began_at: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, run: Run, plan: TrainingPlan) -> Self:
        """The state before the first step; of a resumed training with what TensorBoard's events hold of it."""
        state = cls(run.config.name, plan, plan.batches, plan.epochs_done + 1, plan.batches_done, plan.step)
        if plan.step:
            state._restore(run, plan)
        return state

    def _restore(self, run: Run, plan: TrainingPlan) -> None:
        from corank.analysis.curves import scalars  # which loads the funnel

        for name, series in scalars(run.folder / "events").items():
            points = [
                (x, y) for x, y in zip(series.x.tolist(), series.y.tolist(), strict=True) if x <= plan.step
            ]
            for n, (step, value) in enumerate(points, 1):
                if name.startswith("valid/"):
                    self.metrics.setdefault(name[6:], Curve()).add(n, value)
                else:
                    self.curves.setdefault(name, Curve()).add(step, value)

    def log(self, event: TrainingLog) -> None:
        """Take losses."""
        self.epoch, self.batch, self.batches, self.step = event.epoch, event.batch, event.batches, event.step
        self.candidates_per_second = event.candidates_per_second
        for name, value in event.figures.items():
            self.curves.setdefault(name, Curve()).add(event.step, value)

    def evaluate(self, event: TrainingEvaluation) -> None:
        """Take metrics of an epoch."""
        for name, value in event.learnt.items():
            if value is not None:
                self.metrics.setdefault(name, Curve()).add(event.epoch, value)
        if event.best:
            self.best_epoch = event.epoch

    @property
    def all_batches(self) -> int:
        """Of the whole training, if every epoch has as many as this one."""
        return max(self.plan.epochs * self.batches, 1)

    @property
    def batches_done(self) -> int:
        """Of the whole training."""
        return (self.epoch - 1) * self.batches + self.batch

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process began to train."""
        return time.monotonic() - self.began_at

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the last epoch has ended, at the pace of this process so far; None before the first step."""
        done = self.batches_done - self.plan.epochs_done * self.batches - self.plan.batches_done
        if done <= 0:
            return None
        return self.elapsed_s / done * (self.all_batches - self.batches_done)
