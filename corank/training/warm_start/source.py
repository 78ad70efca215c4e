"""An earlier run whose weights are taken over: its config, encoders, and the state in which its training ended."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from corank.core.errors import CheckpointError
from corank.core.storage.object_url import Location
from corank.data.packs import open_encoders
from corank.features.encoders import Encoders
from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.facts import TrainingProgress, training_progress
from corank.training.checkpoints.matching import require_facts
from corank.training.checkpoints.training_state import check_model, check_training
from corank.training.optimisers import Average, optimisers
from corank.training.preparation.packed_data import packed_location
from corank.training.run import Run, build_networks

OF_MODEL = "model."
"""Before the names of weights in the state of a training."""


@dataclass(frozen=True)
class CarrySource:
    """A finished run, with the state of its training.

    If early stopping kept an epoch before the last, the weights are those of that epoch, averaged where the run
    averages; the optimisers' states are those of the end.
    """

    run: Run
    location: Location
    encoders: Encoders
    latest: Checkpoint
    """The state at the end of the training: weights, optimiser states, average."""
    kept: Checkpoint | None
    """The weights of an earlier epoch, if that was kept; without `OF_MODEL` before their names."""
    progress: TrainingProgress
    """At the end of the training."""

    @classmethod
    def open(cls, location: Location) -> Self:
        """Open a run in its folder or at its URL.

        Raises CheckpointError if it has not finished or is damaged, DataError if its encoders are gone, StorageError.
        """
        run = Run.open(location)
        if not run.finished:
            raise CheckpointError(
                f"{location}: training has not finished; go on with `corank train --resume`, then train from it"
            )
        latest = run.latest.load()
        require_facts(latest, ("progress", "codes"), run.latest.path)
        progress = training_progress(latest.facts)
        kept = run.best.load() if progress.best_epoch < progress.epoch else None
        encoders = find_encoders(run, latest.facts["codes"])
        source = cls(run, location, encoders, latest, kept, progress)
        source._check()
        return source

    def _check(self) -> None:
        """Raise CheckpointError unless its checkpoints are of its config and encoders."""
        train, run = self.run.config.train, self.run
        average = None if train.average is None else Average(self.networks, train.average)
        states = optimisers(self.networks, train.table, train.stages)
        check_training(self.latest, self.networks, states, average, run.latest.path)
        if self.kept is not None:
            check_model(self.kept, self.networks, run.best.path)

    @cached_property
    def networks(self) -> JointModel:
        """Its model, without rows of tables and with weights of no meaning: to know names, shapes and order."""
        return build_networks(self.run.config, self.encoders)

    @property
    def weights(self) -> tuple[Checkpoint, str]:
        """The weights that go over, and what is before their names."""
        return (self.latest, OF_MODEL) if self.kept is None else (self.kept, "")

    @property
    def epochs(self) -> int:
        """The epochs that led to its state, including those of the runs that it started from."""
        return self.progress.epochs_before + self.progress.epoch

    @property
    def averages(self) -> bool:
        """Whether its state has an average that goes with its weights."""
        return self.kept is None and self.run.config.train.average is not None


def find_encoders(run: Run, codes: str) -> Encoders:
    """Open the encoders of a run's packed data, of a hash. Raises DataError if they are gone, StorageError."""
    return open_encoders(packed_location(run.config, run.base), run.config.declared, codes)
