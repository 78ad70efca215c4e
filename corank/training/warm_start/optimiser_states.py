"""States of optimisers taken over: of the weights of layers that go over, and of table rows whose value was known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.optimiser_state import PREFIX, Optimisers
from corank.training.checkpoints.split_table import TableRows
from corank.training.checkpoints.training_state import table_rows
from corank.training.optimisers import optimisers
from corank.training.warm_start.layers import LayerMap
from corank.training.warm_start.plan import WarmStartPlan
from corank.training.warm_start.rows import dimension_of, fill_rows


@dataclass(frozen=True)
class OptimiserStates:
    """The states of a source's optimisers, which belong to the weights of its model."""

    plan: WarmStartPlan

    def carry_into(self, model: JointModel, new: Optimisers) -> None:
        """Take over what belongs to the weights of a new model that go over; `new` are its optimisers, not begun."""
        carried = {layer.new.key: layer for layer in self.plan.layers.carried.values()}
        tables = table_rows(model)
        keys = dict(_places(model, new))
        for name, optimiser in new.items():
            plain = optimiser.state_dict()
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            for number, parameter in enumerate(parameters):
                key = keys[f"{name}.{number}"]
                if name == "table":
                    table = key.removeprefix("tables.")
                    state = self._of_table(table, parameter, tables[table])
                else:
                    state = self._of_layer(carried[key], parameter) if key in carried else {}
                if state:
                    plain["state"][number] = state
            optimiser.load_state_dict(plain)

    @property
    def _held(self) -> Checkpoint:
        return self.plan.source.latest

    @cached_property
    def _earlier(self) -> dict[str, str]:
        """By the name of an earlier weight, what begins the names of its state."""
        train, model = self.plan.source.run.config.train, self.plan.source.networks
        source_optimisers = optimisers(model, train.table, train.stages)
        return {key: f"{PREFIX}{place}." for place, key in _places(model, source_optimisers)}

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """The parts of each state, by what begins their names."""
        parts: dict[str, list[str]] = {}
        for name in self._held.names:
            if name.startswith(PREFIX):
                begin, _, part = name.rpartition(".")
                parts.setdefault(f"{begin}.", []).append(part)
        return parts

    def _of_table(self, table: str, parameter: Tensor, rows: TableRows) -> dict[str, Any]:
        earlier = self.plan.earlier_table(table)
        if earlier is None or not self.plan.same_table_optimiser:
            return {}
        begin, row_map = self._earlier[f"tables.{earlier}"], self.plan.rows.table(dimension_of(table))
        state: dict[str, Any] = {}
        for part in self._names.get(begin, ()):
            shape = self._held.shape(f"{begin}{part}")
            if part == "step":
                state[part] = _number(self._held.whole(f"{begin}{part}"))
                continue
            state[part] = parameter.new_zeros(len(parameter), *shape[1:])
            fill_rows(state[part], rows, row_map, self._held, f"{begin}{part}", known=True)
        return state

    def _of_layer(self, layer: LayerMap, parameter: Tensor) -> dict[str, Any]:
        begin = self._earlier[layer.earlier.key]
        state: dict[str, Any] = {}
        for part in self._names.get(begin, ()):
            tensor = self._held.whole(f"{begin}{part}")
            # a weight that is a number by itself has moments of that shape, too
            if part == "step":
                state[part] = _number(tensor)
            else:
                state[part] = torch.zeros_like(parameter)
                layer.fill(state[part], tensor)
        return state


def _number(tensor: Tensor) -> Any:
    """A single number of a state: an optimiser that counts its steps in a Python int rounds otherwise with a tensor."""
    return tensor.clone() if tensor.is_floating_point() else int(tensor.item())


def _places(model: JointModel, of: Mapping[str, torch.optim.Optimizer]) -> Iterator[tuple[str, str]]:
    """Yield the place of each weight among the optimisers, `NAME.NUMBER`, and its name in the model's state."""
    keys = {id(parameter): key for key, parameter in model.named_parameters()}
    for name, optimiser in of.items():
        for number, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
            yield f"{name}.{number}", keys[id(parameter)]
