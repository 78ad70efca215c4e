"""What a new model takes over from an earlier run: rows of tables, layers, optimiser states, the average.

An earlier run whose weights are taken over: its config, encoders, and the state in which its training ended.

Matches the weights of layers of two models: by name and shape, and by what they read and give.

Letters: N indices of an axis of the new weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.core.objects import Location
from corank.core.types import Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.packs import open_trained
from corank.features.encoders import Encoders
from corank.features.encoding import PLACEMENTS
from corank.features.row_map import PackingMap
from corank.models.joint import JointModel
from corank.models.named_axes import Axes, AxisNames, name_inputs, read_axes
from corank.training.checkpoints.checkpoint import Checkpoint, reading
from corank.training.checkpoints.checkpoint_files import load
from corank.training.checkpoints.facts import TrainingProgress
from corank.training.config.config import Config
from corank.training.model_building import build_networks
from corank.training.packed_data import packed_location
from corank.training.run import Run

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
        latest = load(run.latest)
        with reading(run.latest):
            progress, codes = TrainingProgress(**latest.facts["progress"]), latest.facts["codes"]
        kept = load(run.best) if progress.best_epoch < progress.epoch else None
        return cls(run, location, find_encoders(run, codes), latest, kept, progress)

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
    packed = open_trained(packed_location(run.config, run.base), None, codes)
    return packed.with_features(run.config.declared).encoders


@dataclass(frozen=True)
class Layer:
    """A weight outside of tables."""

    key: str
    """Its name in the model's state."""
    shape: tuple[int, ...]
    axes: Axes
    """The names of each axis; None for one that the layer does not name."""
    network: str
    """The stage or teacher that it is of; the name of a set of tables, of a projection."""


@dataclass(frozen=True)
class LayerMap:
    """Where a weight's numbers come from."""

    earlier: Layer
    new: Layer
    index: tuple[Longs | None, ...]
    """For each axis the earlier index of each index, −1 for none: (N,); None if all are the same."""

    @property
    def whole(self) -> bool:
        """Whether the weight is taken over as it is."""
        return all(index is None for index in self.index)

    @property
    def changes(self) -> tuple[list[str], list[str]]:
        """The names of what it reads or gives that are new, and of those that are gone."""
        new: list[str] = []
        gone: list[str] = []
        for before, now in zip(self.earlier.axes, self.new.axes, strict=True):
            new += _features(set(now or ()) - set(before or ()))
            gone += _features(set(before or ()) - set(now or ()))
        return sorted(set(new)), sorted(set(gone))

    @torch.no_grad()
    def fill(self, target: Tensor, held: Tensor) -> None:
        """Copy what is carried of an earlier tensor; the rest of the target stays."""
        if self.whole:
            target.copy_(held)
            return
        indices = [
            np.arange(size) if i is None else i for i, size in zip(self.index, target.shape, strict=True)
        ]
        where = [np.flatnonzero(index >= 0) for index in indices]
        there = [index[some] for index, some in zip(indices, where, strict=True)]
        values = held[tuple(map(torch.from_numpy, np.ix_(*there)))]
        target[tuple(map(torch.from_numpy, np.ix_(*where)))] = values.to(target.device)


def _features(names: set[str]) -> list[str]:
    """The names without the number of a column."""
    return [name.partition("[")[0] for name in names]


def list_layers(model: JointModel) -> dict[str, Layer]:
    """List all weights outside of tables, by names that depend on no order of features and labels."""
    axes = {
        f"{part}.{name}.{weight}": weight_axes
        for part, networks in (("stages", model.stages), ("teachers", model.teachers))
        for name, network in networks.items()
        for weight, weight_axes in read_axes(network).items()
    }
    layers = {}
    for key, tensor in model.state_dict().items():
        part, network, *rest = key.split(".")
        if part == "tables":
            continue
        name, shape = key, tuple(tensor.shape)
        if part == "projections":
            name = f"projections.{network}.{list(model.layout.projections)[int(rest[0])]}"
        elif rest[0] == "position" and model.positions:
            name = f"{part}.{network}.position.{model.labels[network][int(rest[1])]}"
        elif rest[0] == "loss_parameter" and model.parameter_losses[network]:
            name = f"{part}.{network}.loss_parameter.{model.parameter_losses[network][int(rest[1])]}"
        layers[name] = Layer(key, shape, axes.get(key, (None,) * len(shape)), network)
    return layers


def _shape(layer: Layer) -> str:
    return " x ".join(map(str, layer.shape)) or "a number"


def _silent(earlier: JointModel, new: JointModel) -> set[str]:
    """The networks that do not name what their layers read, if that has changed."""
    inputs = [[name_inputs(model.layout, placement) for placement in PLACEMENTS] for model in (earlier, new)]
    return {
        name
        for name, network in new.networks.items()
        if not read_axes(network)
        and (inputs[0] != inputs[1] or earlier.attends.get(name) != new.attends.get(name))
    }


def _match(earlier: Layer, new: Layer) -> tuple[Longs | None, ...] | None:
    """Find the earlier index of each index of each axis; None if the weights do not fit."""
    if len(earlier.shape) != len(new.shape):
        return None
    indices: list[Longs | None] = []
    for before, now, sizes in zip(
        earlier.axes, new.axes, zip(earlier.shape, new.shape, strict=True), strict=True
    ):
        if before is not None and now is not None:
            positions = _positions(now, before)
            if (positions < 0).all():
                return None
            indices.append(None if before == now else positions)
        elif sizes[0] == sizes[1]:
            indices.append(None)
        else:
            return None
    return tuple(indices)


def _positions(names: AxisNames, among: Sequence[str]) -> Longs:
    """Where names are among others, −1 for those that are not there: (N,)."""
    at = {name: n for n, name in enumerate(among)}
    return np.array([at.get(name, -1) for name in names], dtype=np.int64)


SHARED = "shared"
"""The set of tables of stages that share."""


@dataclass(frozen=True)
class WeightMap:
    """Where the weights of a new model come from."""

    rows: PackingMap
    carried: dict[str, LayerMap]
    """The layers that an earlier model has, too, by name."""
    fresh: dict[str, str]
    """Weight → why it starts fresh, if it was there before."""
    gone: tuple[str, ...]
    sets: dict[str, str | None]
    """Each set of tables → the earlier set that it begins as; None if it starts fresh."""

    @classmethod
    def find(cls, earlier: JointModel, new: JointModel, rows: PackingMap) -> "WeightMap":
        """Find the weights of a new model in an earlier one; both may be without rows of tables."""
        before, now = list_layers(earlier), list_layers(new)
        silent, shared = _silent(earlier, new), SHARED in earlier.table_sets
        carried, fresh = {}, {}
        for name, layer in now.items():
            if name not in before:
                fresh[name] = ""
            elif layer.network in silent:
                fresh[name] = "its network does not name the inputs of its layers, and they changed"
            elif (index := _match(before[name], layer)) is None:
                fresh[name] = f"{_shape(before[name])} before, {_shape(layer)} now"
            else:
                carried[name] = LayerMap(before[name], layer, index)
        sets = {
            # a stage that gets tables of its own begins with those that it shared
            name: name if name in earlier.table_sets else SHARED if shared else None
            for name in new.table_sets
        }
        return WeightMap(rows, carried, fresh, tuple(name for name in before if name not in now), sets)

    def earlier_table(self, table: str) -> str | None:
        """The earlier table that a table such as `shared.weights.16` begins as; None if there is none."""
        of, _, dim = table.rpartition(".weights.")
        earlier, before = self.sets[of], self.rows.layouts[0].table_rows
        return None if earlier is None or int(dim) not in before else f"{earlier}.weights.{dim}"


@dataclass(frozen=True)
class WarmStartPlan(WeightMap):
    """What a training takes over from an earlier run."""

    source: CarrySource
    config: Config
    """Of the new model."""

    @property
    def same_table_optimiser(self) -> bool:
        """Whether the states of the tables' optimiser mean the same."""
        before, now = self.source.run.config.train.table, self.config.train.table
        return before.optimiser == now.optimiser

    @property
    def carries_average(self) -> bool:
        """Whether the running average continues; otherwise it begins at the weights that are taken over."""
        return self.source.averages and self.config.train.average is not None


def plan_warm_start(location: Location, config: Config, packed: PackedDataset) -> WarmStartPlan:
    """Find what the model of a config takes over from a run.

    Raises CheckpointError if the run has not finished or is damaged, DataError if its encoders are gone.
    """
    source, encoders = CarrySource.open(location), packed.encoders
    rows = PackingMap(source.encoders, encoders)
    weights = WeightMap.find(source.networks, build_networks(config, encoders), rows)
    return WarmStartPlan(**vars(weights), source=source, config=config)
