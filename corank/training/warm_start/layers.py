"""Matches the weights of layers of two models: by name and shape, and by what they read and give.

Letters: N indices of an axis of the new weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corank.core.types import Longs
from corank.features.schema import PLACEMENTS
from corank.models.joint import JointModel
from corank.models.named_axes import Axes, AxisNames, name_inputs, read_axes


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
        elif rest[0] == "log_variance" and model.weighed[network]:
            name = f"{part}.{network}.log_variance.{model.weighed[network][int(rest[1])]}"
        layers[name] = Layer(key, shape, axes.get(key, (None,) * len(shape)), network)
    return layers


@dataclass(frozen=True)
class ModelMap:
    """The layers of a new model, by those of an earlier one."""

    carried: dict[str, LayerMap]
    fresh: dict[str, str]
    """Weight → why it starts fresh, if it was there before."""
    gone: tuple[str, ...]

    @classmethod
    def of(cls, earlier: JointModel, new: JointModel) -> "ModelMap":
        """Find the layers of a new model in an earlier one."""
        before, now = list_layers(earlier), list_layers(new)
        silent = _silent(earlier, new)
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
        return cls(carried, fresh, tuple(name for name in before if name not in now))


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
