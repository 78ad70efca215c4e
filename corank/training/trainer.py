"""A model under training: its optimisers, its average, one step, and the checkpoint that holds them all.

Where and how a training computes: device, precision of its products, reuse of its memory.

Ranks that are to train one model must have the same config and the same packed data.

Which candidates each network scores in the steps of a training, by what losses read of it.
"""

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch

from corank.batches.batch import Batch, CandidateSubset
from corank.batches.reader import Reader
from corank.batches.sampling import Population, merge
from corank.core.errors import ConfigError
from corank.core.version import corank_version
from corank.data.packed.dataset import PackedDataset
from corank.distributed.ranks import Ranks
from corank.losses.total import StepLosses
from corank.models.joint import JointModel
from corank.models.layers import has_fused_relu
from corank.models.tables.row_exchange import GradientSum
from corank.training.checkpoints.checkpoint import TrainingProgress, training_progress
from corank.training.checkpoints.checkpoint_files import CheckpointWriter, config_facts, load_matching
from corank.training.checkpoints.training_state import (
    Average,
    held_buckets,
    optimisers,
    restore_training,
    training_state,
)
from corank.training.config.config import Config
from corank.training.config.config_file import flatten, plain
from corank.training.number_sample import fit_networks
from corank.training.run import Run, build_model


def device() -> torch.device:
    """The GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bf16(on: torch.device) -> bool:
    """Whether a device multiplies in bf16 by instructions of its own; elsewhere bf16 is emulated, slower than fp32."""
    if on.type == "cuda":
        return True
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return native and has_fused_relu()


def precision(setting: str, on: torch.device) -> torch.dtype:
    """The dtype of `train.precision`: for `auto`, bf16 if the device multiplies in it, else fp32."""
    use_bf16 = setting == "bf16" or (setting == "auto" and multiplies_bf16(on))
    return torch.bfloat16 if use_bf16 else torch.float32


def precision_warnings(setting: str, on: torch.device) -> list[str]:
    """Say that `train.precision: bf16` is slow on a device that does not multiply in bf16."""
    if setting != "bf16" or multiplies_bf16(on):
        return []
    return [
        "train.precision: this processor has no instructions for bf16, which is emulated and slower than fp32; "
        "take auto or fp32"
    ]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for reuse: every step or batch frees and allocates the same sizes."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def require_agreement(ranks: Ranks, config: Config, packed: PackedDataset) -> None:
    """Compare this rank's config, packed data and versions with the first rank's.

    Raises ConfigError, which names the rank and what differs.
    """
    ours = _facts(config, packed)
    first = ranks.share(ours, "config and data of the first rank")
    differing = sorted(key for key in ours.keys() | first.keys() if ours.get(key) != first.get(key))
    if differing:
        named = "; ".join(f"{key}: {ours.get(key)!r}, on rank 0 {first.get(key)!r}" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ConfigError(
            f"the ranks would train different models ({named}{more}); start all with the same command, config, "
            "packed data and versions"
        )


def _facts(config: Config, packed: PackedDataset) -> dict[str, Any]:
    requests = {split: sum(s.requests for s in shards) for split, shards in packed.manifest.splits.items()}
    return {
        "version of corank": corank_version(),
        "version of torch": torch.__version__,
        "kind of device": device().type,
        "vocabularies of the packed data": packed.codes,
        **{f"packed requests of {split}": number for split, number in requests.items()},
        **flatten(plain(config)),
    }


def scored_populations(config: Config, learner: str | None = None) -> dict[str, Population]:
    """Return the candidates that networks score, by network; one that is not named scores all of a batch.

    Networks whose item vectors meet in a product score all: a candidate costs them next to nothing.

    Args:
        config: its losses and its stages.
        learner: the stage or teacher that learns in the step; all of them if None.
    """
    total = config.total
    every = total.population(learner if config.train.mode == "separate" else None)
    read = total.populations(learner)
    for stage in reversed(config.stages):
        for earlier, what in stage.earlier() if stage.name in read else ():
            # ranks are those among all candidates of the request
            seen = every if what == "rank" else read[stage.name]
            read[earlier] = merge([read.get(earlier, {}), seen])
    vectors = {stage.name for stage in config.stages if stage.has_vectors}
    return {
        name: population for name, population in read.items() if name not in vectors and population != every
    }


@dataclass(frozen=True)
class Update:
    """What an update of one learner, or of all, runs: found once from the config."""

    losses: StepLosses
    computed: Sequence[str]
    """The stages and teachers that are computed."""
    scored: Mapping[str, Population]
    """The candidates that networks score, by network (`scored_populations`)."""
    layers: Sequence[torch.nn.Parameter]
    """The weights outside of tables of what is computed."""

    def prepare(self, batch: Batch) -> None:
        """Make what it reads of a batch alone, on the host, before the batch is copied to a GPU."""
        self.losses.prepare(batch)
        for population in self.scored.values():
            CandidateSubset.of(batch, population)


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
        self.updates = {learner: self._ready(learner) for learner in (None, *self.model.networks)}
        """By learner, None for all, what an update of it runs."""
        self._parameters = list(self.model.parameters())
        self.progress = TrainingProgress()
        self.writer = CheckpointWriter(self.ranks)

    def _ready(self, learner: str | None) -> "Update":
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
        last_first = self._last_first
        match self.config.train.mode:
            case "joint":
                return [None]
            case "alternate":
                return [name for name in last_first if self.total.select(name)]
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
        loss, means = update.losses(outputs, batch, self.progress.step)
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
    def _last_first(self) -> list[str]:
        """The stages and teachers that losses train, the last first."""
        return [n.name for n in reversed(self.config.networks.values()) if not n.fitted]

    @property
    def epochs(self) -> int:
        """Epochs of the whole training; in mode separate every stage has its own."""
        return (
            max(self._ends().values())
            if self.config.train.mode == "separate"
            else self.config.train.epochs_of(None)
        )

    def _ends(self) -> dict[str, int]:
        """Epochs of the training by which each stage has ended in mode separate, the last stage first."""
        epochs = map(self.config.train.epochs_of, self._last_first)
        return dict(zip(self._last_first, accumulate(epochs), strict=True))

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
        )

    def settle(self) -> None:
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
        self.writer.write(self.run.latest, training_state(self.model, self.optimisers, self.average, facts))

    def load(self) -> None:
        """Continue from the latest checkpoint. Raises CheckpointError if it is of another config or packing."""
        latest = self.run.latest
        checkpoint = load_matching(latest, ["progress"], self.config, self.packed, held_buckets(self.model))
        restore_training(checkpoint, self.model, self.optimisers, self.average, latest)
        self.progress = training_progress(checkpoint.facts)
        if self.average is not None:
            self.average.step, self.average.begun = self.progress.step, self.progress.average_begun


def sum_gradients(
    model: JointModel, update: Update, ranks: Ranks, means: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Sum the gradients of an update over all ranks: of layers as one buffer, of tables row by row, at the same time.

    A collective. What has a gradient on some rank has one on all of them afterwards, and what has none on any keeps
    none, so that optimisers do on every rank what they would do alone.

    Args:
        model: with the gradients of this rank.
        update: what was computed, the same on all ranks.
        ranks: all of them.
        means: this rank's part of the mean of each loss.

    Returns the means, which are summed along with the gradients of layers.
    """
    if ranks.alone:
        return means
    layers = update.layers
    reading = [name for name in update.computed if name not in model.frozen_tables]
    tables = [model.table_sets[name] for name in dict.fromkeys(model.tables_of[name] for name in reading)]
    by_table = [table_set.reached for table_set in tables]
    reached = [layer.grad is not None for layer in layers] + [some for by_dim in by_table for some in by_dim]
    gradients = [torch.zeros_like(layer) if layer.grad is None else layer.grad for layer in layers]
    flags = torch.tensor(reached, dtype=gradients[0].dtype, device=gradients[0].device)
    parts = torch.stack(list(means.values())).to(flags.dtype)
    buffer = torch.cat([*(gradient.reshape(-1) for gradient in gradients), flags, parts])
    pending = ranks.start_sum(buffer, "gradients of layers")
    for table_set in tables:
        table_set.send_gradients()
    pending.wait()
    *summed, flags, parts = buffer.split([*(layer.numel() for layer in layers), len(flags), len(parts)])
    some_rank = [count > 0 for count in flags.tolist()]
    for layer, gradient, some in zip(layers, summed, some_rank, strict=False):
        layer.grad = gradient.view_as(layer) if some else None
    of_tables = iter(some_rank[len(layers) :])
    for table_set, by_dim in zip(tables, by_table, strict=True):
        table_set.sum_gradients([next(of_tables) for _ in by_dim])
    return dict(zip(means, parts.unbind(), strict=True))
