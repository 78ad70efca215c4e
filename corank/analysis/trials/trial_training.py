"""One training of a trial, in a temporary folder: weights are not kept."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from corank.core.errors import DivergedError
from corank.data.dataset import PackedDataset
from corank.models.joint import JointModel
from corank.training.callbacks import Callback
from corank.training.config import Config
from corank.training.preparation.schedule import plan_packed
from corank.training.run import Run
from corank.training.train import MidEpochChecks, train_run

T = TypeVar("T")


@dataclass(frozen=True)
class Trained(Generic[T]):
    """A training that has ended: what was measured of it, or why it diverged."""

    measured: T | None
    diverged: str | None
    seconds: float
    """Of the training, without what is measured afterwards."""


def train_trial(
    config: Config,
    packed: PackedDataset,
    base: Path,
    measure: Callable[[Run], T],
    callbacks: Sequence[Callback] = (),
    checks: MidEpochChecks | None = None,
) -> Trained[T]:
    """Train a config and measure the finished run, whose folder is removed then.

    Args:
        config: what is trained.
        packed: its packed data.
        base: relative paths of the config begin here.
        measure: takes the finished run.
        callbacks: called as it trains.
        checks: receives validation figures within epochs.

    Raises DataError, CorankError, and what a callback raises.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corank") as folder:
        run = Run.create(Path(folder) / "run", plan_packed(config, packed), base)
        try:
            train_run(run, packed, callbacks, checks=checks)
        except DivergedError as error:
            why = str(error).rpartition("/run: ")[2]
            return Trained(None, why, time.monotonic() - began)
        seconds = time.monotonic() - began
        return Trained(measure(run), None, seconds)


def count_parameters(model: JointModel) -> dict[str, int]:
    """Number of weights of the tables and of each network."""
    parts = {"tables": [model.tables, model.projections]} | {n: [part] for n, part in model.networks.items()}
    return {
        name: sum(p.numel() for module in modules for p in module.parameters())
        for name, modules in parts.items()
    }
