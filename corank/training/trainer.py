"""A model under training: its optimisers, its average, one step, and the checkpoint that holds them all."""

from dataclasses import asdict
from itertools import accumulate
from typing import Any

import torch

from corank.batches.batch import Batch
from corank.batches.reader import Reader
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.models.joint import JointModel
from corank.models.tables.row_exchange import GradientSum
from corank.training.checkpoints.checkpoint import Checkpoint, reading
from corank.training.checkpoints.checkpoint_files import CheckpointWriter, load_matching
from corank.training.checkpoints.facts import TrainingProgress, config_facts
from corank.training.checkpoints.loss_state import LossState
from corank.training.checkpoints.training_state import (
    copy_tensors,
    held_buckets,
    name_tensors,
    optimiser_tensors,
    restore_optimisers,
    table_rows,
)
from corank.training.device import device, precision
from corank.training.model_building import build_model
from corank.training.number_sample import fit_networks
from corank.training.optimisers import Average, optimisers
from corank.training.run import Run
from corank.training.update import Update, scored_populations, sum_gradients

RANK_SEED = 0x9E3779B1
"""Between the seeds of two ranks; torch takes the lowest 32 bits of a seed."""


class Trainer:
    """A model under training, with all the state that a checkpoint must hold."""

    def __init__(self, run: Run, packed: PackedDataset, ranks: Ranks | None = None) -> None:
        """Build a model and its optimisers.

        Args:
            run: its config is trained.
            packed: the data.
            ranks: the processes that train together; this one alone by default.
        """
        self.run, self.config, self.packed, self.ranks = run, run.config, packed, ranks or Ranks()
        self.device = device()
        torch.manual_seed(self.config.train.seed)
        self.model = build_model(self.config, packed, self.ranks)
        fit_networks(self.model, packed, self.ranks)
        self.model.to(self.device)
        self.model.dtype = precision(self.config.train.precision, self.device)
        train = self.config.train
        self.optimisers = optimisers(self.model, train.table, train.stages)
        self.average = Average(self.model, train.average) if train.average else None
        self.total = self.config.total
        self.loss_state = LossState(self.total, self.ranks, self.device)
        self.updates = {learner: self._ready(learner) for learner in (None, *self.model.networks)}
        """By learner, None for all, what an update of it runs."""
        self._parameters = list(self.model.parameters())
        self.progress = TrainingProgress()
        self.writer = CheckpointWriter(self.ranks)

    def _ready(self, learner: str | None) -> Update:
        losses = self.total.of(learner)
        computed = self.model.with_earlier(losses.reads)
        scored = scored_populations(self.config, learner)
        return Update(losses, computed, scored, self.model.layers(computed))

    def step(self, batch: Batch, following: Batch | None = None) -> dict[str, torch.Tensor]:
        """Take one optimiser step.

        Args:
            batch: this rank's part of the batch.
            following: that of the batch after it, which the ranks begin to agree on meanwhile; all give it, or none.

        Returns the mean of each loss, not yet read from the device.
        """
        # dropout draws from the step's own seed, so that a resumed run draws the same; each rank draws others
        seed = self.config.train.seed * 1_000_003 + self.progress.step + self.ranks.rank * RANK_SEED
        self._seed(seed)
        rows = None
        if following is not None:
            self._announce(batch)  # of an epoch's first batch
            rows = self._announce(following)
        means: dict[str, torch.Tensor] = {}
        for learner in self.learners():
            means |= self._update(batch, learner, rows)
        if following is not None:  # rows travel while the batch after it is read
            self.model.fetch(following, self.updates[self.learners()[0]].computed)
        if self.average is not None:
            self.average.after()
        self.progress.step += 1
        return means

    def prepare(self, batch: Batch) -> None:
        """Make what a step reads of a batch alone, on the host, before the batch is copied to a GPU."""
        for learner in self.learners():
            self.updates[learner].prepare(batch)

    def _announce(self, batch: Batch) -> GradientSum | None:
        """Begin to agree with the other ranks on a batch, unless that is begun. Returns what they agree on of rows."""
        for learner in self.learners():
            self.updates[learner].losses.announce(batch)
        return self.model.agree(batch)

    def _seed(self, seed: int) -> None:
        """Seed the generator that dropout draws from: `torch.manual_seed` seeds those of every kind of device.

        For kinds that the machine lacks it keeps the call and where it came from, at each step.
        """
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def learners(self) -> list[str | None]:
        """The stages that learn in a step, one update each, teachers first; [None] if all learn in one update."""
        match self.config.train.mode:
            case "joint":
                return [None]
            case "alternate":
                networks = reversed(self.config.networks.values())
                return [one.name for one in networks if not one.fitted and self.total.select(one.name)]
            case "separate":
                done = self.progress.epoch
                return [next(name for name, end in self._ends().items() if done < end)]

    def _update(
        self, batch: Batch, learner: str | None, following: GradientSum | None
    ) -> dict[str, torch.Tensor]:
        update = self.updates[learner]
        for name, stage in self.model.networks.items():
            learns = learner in (None, name)  # no dropout in a stage that does not learn now
            if stage.training != learns:
                stage.train(learns)
        outputs = self.model.outputs(batch, update.losses.reads, update.scored)
        loss, means = update.losses(self.loss_state.give(outputs), batch, self.progress.step)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        if following is not None:  # the counts have arrived while this rank computed
            following.send_numbers()
        means = sum_gradients(self.model, update, self.ranks, means)
        if self.average is not None:
            self.average.before()
        for optimiser in self.optimisers.values():
            optimiser.step()
        return means

    @property
    def epochs(self) -> int:
        """Epochs of the whole training; in mode separate every stage has its own."""
        return sum(self.config.turns.values())

    def _ends(self) -> dict[str | None, int]:
        """Epochs of the training by which each stage has ended in mode separate, the last stage first."""
        turns = self.config.turns
        return dict(zip(turns, accumulate(turns.values()), strict=True))

    @property
    def reader(self) -> Reader:
        """The reader of the epoch: the candidates from which the stages of the epoch learn."""
        learners, train = self.learners(), self.config.train
        learner = learners[0] if train.mode == "separate" else None
        return Reader(
            self.packed,
            "train",
            train.batch_size,
            self.total.population(learner),
            train.seed,
            self.ranks,
            self.model.sharded,
            attended=self.model.attended,
            sees_ranks=self.model.sees_ranks,
            readings=self.total.readings(learner),
            outcomes=self.total.outcomes(learner),
        )

    def take_average(self) -> None:
        """Take the averaged weights over at the end of a stage's epochs in mode separate, to teach later stages.

        The average begins again with the first step of the next, unless its weights are those of an earlier run.
        """
        train = self.config.train
        if (
            self.average is not None
            and train.mode == "separate"
            and self.progress.epoch in self._ends().values()
        ):
            self.model.load_state_dict(self.average.model().state_dict())
            if not self.progress.epochs_before:
                self.average.begun = self.progress.average_begun = self.progress.step

    def shipped(self) -> JointModel:
        """The model that is evaluated and shipped: the averaged one if `train.average` is set."""
        return self.model if self.average is None else self.average.model()

    def save(self) -> None:
        """Write the latest checkpoint: weights, optimiser states, average and progress. A collective."""
        facts = config_facts(self.config, self.packed) | {"progress": asdict(self.progress)}
        self.writer.write(self.run.latest, self.state(facts))

    @property
    def _weights(self) -> dict[str, torch.Tensor]:
        """The tensors that the training learns, by name."""
        named = self.model.state_dict(prefix="model.")
        if self.average is not None:
            named |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        return named

    def state(self, facts: dict[str, Any]) -> Checkpoint:
        """All that the training needs to continue, not copied."""
        tensors = self._weights | optimiser_tensors(self.optimisers)
        return self.loss_state.add_to(name_tensors(tensors, facts, self.model))

    def load(self) -> None:
        """Continue from the latest checkpoint. Raises CheckpointError if it is of another config or packing."""
        latest = self.run.latest
        checkpoint = load_matching(latest, self.config, self.packed, held_buckets(self.model))
        with reading(latest):
            copy_tensors(checkpoint, self._weights, self.model)
            restore_optimisers(checkpoint, self.optimisers, [*table_rows(self.model).values()])
            self.loss_state.restore(checkpoint)
            self.progress = TrainingProgress(**checkpoint.facts["progress"])
        if self.average is not None:
            self.average.step, self.average.begun = self.progress.step, self.progress.average_begun
