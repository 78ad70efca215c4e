"""The state of a training as named tensors: weights, optimiser states, average, what losses keep.

Tables, and what is kept of each of their rows, are tables of the checkpoint: each rank gives and takes the rows that it
holds. Their names are the same whatever the number of ranks.

States of optimisers are named `optimiser.NAME.NUMBER.PART`, NUMBER of the parameter.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.models.joint import JointModel
from corank.models.stage_model import StageModel
from corank.training.checkpoints.checkpoint import (
    Checkpoint,
    SplitTable,
    TablePart,
    TableRows,
    check_names,
    check_tensor,
)
from corank.training.checkpoints.loss_state import LossState, names_in
from corank.training.optimisers import Average

Optimisers = Mapping[str, torch.optim.Optimizer]
"""`table`, and one of each stage."""
PREFIX = "optimiser."
STEP, SIGNED = "step", "exp_avg"
"""Parts of a state: the number of steps, and the only one that may be below 0."""


def optimiser_tensors(optimisers: Optimisers) -> dict[str, Tensor]:
    """The tensors of all states, not copied. Before the first step many optimisers have none."""
    return {
        f"{PREFIX}{name}.{number}.{part}": torch.as_tensor(value)
        for name, optimiser in optimisers.items()
        for number, state in optimiser.state_dict()["state"].items()
        for part, value in state.items()
    }


def check_optimisers(
    held: Checkpoint, optimisers: Optimisers, tables: Sequence[TableRows], path: Path
) -> None:
    """Raise CheckpointError, which names path and tensor, unless a checkpoint has sound states of new optimisers.

    Args:
        held: the checkpoint; of its tensors those that `optimiser_tensors` names are checked.
        optimisers: as they are before the first step; their tables may be without rows.
        tables: the rows of each table, in the order of the optimiser `table`.
        path: of the checkpoint, for messages.
    """
    left = {name for name in held.names if name.startswith(PREFIX)}
    for state in _states(held, optimisers, tables):
        if state.found and (absent := state.parts.keys() - state.found):
            raise CheckpointError(f"{path}: {state.name(min(absent))} is missing; train again")
        for part in state.found:
            name, like = state.name(part), state.parts[part]
            shape = (state.table.rows, *like.shape[1:]) if state.table and like.dim() else tuple(like.shape)
            # an optimiser may count its steps in a Python int
            counts = part == STEP and held.dtype(name) == torch.int64
            least = -math.inf if part == SIGNED else 0
            check_tensor(held, name, shape, torch.int64 if counts else like.dtype, path, least)
            left.discard(name)
    if left:
        raise CheckpointError(f"{path}: {min(left)} is of another optimiser; train again")


def restore_optimisers(held: Checkpoint, optimisers: Optimisers, tables: Sequence[TableRows]) -> None:
    """Take the states of new optimisers over from a checkpoint, which was checked.

    Args:
        held: the checkpoint.
        optimisers: as they are before the first step.
        tables: the rows that this rank holds of each table, in the order of the optimiser `table`.
    """
    restored: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in optimisers}
    for state in _states(held, optimisers, tables):
        taken = {part: _take(held, state.name(part), state.table) for part in state.found}
        if taken:
            restored[state.optimiser][state.number] = taken
    for name, optimiser in optimisers.items():
        optimiser.load_state_dict({**optimiser.state_dict(), "state": restored[name]})


@dataclass(frozen=True)
class _State:
    """The state of a parameter in a checkpoint."""

    optimiser: str
    number: int
    table: TableRows | None
    """The rows of the parameter if it is a table."""
    parts: Mapping[str, Tensor]
    """Those that it has if it has any, as they are before the first step."""
    found: frozenset[str]
    """Those that the checkpoint has."""

    def name(self, part: str) -> str:
        """The name of a part's tensor."""
        return _name(self.optimiser, self.number, part)


def _name(optimiser: str, number: int, part: str) -> str:
    return f"{PREFIX}{optimiser}.{number}.{part}"


def _states(checkpoint: Checkpoint, optimisers: Optimisers, tables: Sequence[TableRows]) -> Iterator[_State]:
    names = set(checkpoint.names)
    for name, optimiser in optimisers.items():
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        before = optimiser.state_dict()["state"]
        for number, parameter in enumerate(parameters):
            known = {part: torch.as_tensor(value) for part, value in before.get(number, {}).items()}
            parts = known or {STEP: torch.zeros(()), SIGNED: parameter, "exp_avg_sq": parameter}
            stored_parts = frozenset(part for part in parts if _name(name, number, part) in names)
            yield _State(name, number, tables[number] if name == "table" else None, parts, stored_parts)


def _take(checkpoint: Checkpoint, name: str, table: TableRows | None) -> Any:
    """Copy a part of a state; a whole number as a Python int, since its optimiser rounds otherwise with a tensor."""
    if table is not None and checkpoint.shape(name):
        return checkpoint.take(name, table)
    tensor = checkpoint.whole(name).clone()
    return tensor if tensor.is_floating_point() else int(tensor.item())


_OF_A_TABLE = re.compile(
    r"(?:(?:average\.)?(?:model\.)?tables|average\.seen)\.(?P<name>.+)|optimiser\.table\.(?P<number>\d+)\..+"
)
"""Names of tensors that have a row for each row of a table, unless they are single numbers."""


def table_rows(model: JointModel) -> dict[str, TableRows]:
    """The rows that each table of a model holds on this rank, by the table's name, in the order of the optimiser."""
    return {
        f"{of}.{name}": TableRows(model.layout.table_rows[table.shape[1]], tables.buckets)
        for of, tables in model.table_sets.items()
        for name, table in tables.named_parameters()
    }


def held_buckets(model: JointModel) -> range:
    """The buckets of which this rank holds rows."""
    buckets = [rows.buckets for rows in table_rows(model).values()]
    return range(min(b.start for b in buckets), max(b.stop for b in buckets))


def model_state(model: JointModel, facts: dict[str, Any]) -> Checkpoint:
    """The weights of a model, not copied."""
    return _named(model.state_dict(), facts, model)


class TrainingParts(NamedTuple):
    """All that a training needs to continue."""

    model: JointModel
    optimisers: Optimisers
    average: Average | None
    losses: LossState

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors that a training learns, by name."""
        named = self.model.state_dict(prefix="model.")
        if self.average is not None:
            named |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        return named

    def state(self, facts: dict[str, Any]) -> Checkpoint:
        """The tensors of all of them, not copied."""
        return self.losses.add_to(
            _named(self.weights | optimiser_tensors(self.optimisers), facts, self.model)
        )


def restore_model(held: Checkpoint, model: JointModel, path: Path) -> None:
    """Copy weights into a model, of tables the rows that this rank holds.

    Raises CheckpointError, which names the checkpoint's path, if they are not those of the model.
    """
    check_model(held, model, path)
    _copy(held, model.state_dict(), model)


def restore_training(held: Checkpoint, parts: TrainingParts, path: Path) -> None:
    """Take the state of a training over. Raises CheckpointError, which names the checkpoint's path, if it cannot."""
    check_training(held, parts, path)
    _copy(held, parts.weights, parts.model)
    restore_optimisers(held, parts.optimisers, list(table_rows(parts.model).values()))
    parts.losses.restore(held)


def check_model(held: Checkpoint, model: JointModel, path: Path) -> None:
    """Raise CheckpointError, which names path and tensor, unless a checkpoint has sound weights of a model.

    The model may be without rows of its tables.
    """
    _check(held, model.state_dict(), model, path)


def check_training(held: Checkpoint, parts: TrainingParts, path: Path) -> None:
    """Raise CheckpointError, which names path and tensor, unless a checkpoint has a sound state of a training.

    The model, with which optimisers and average were made, may be without rows of its tables.
    """
    of_optimisers = {name for name in held.names if name.startswith(PREFIX)}
    _check(held.without(of_optimisers | names_in(held)), parts.weights, parts.model, path)
    parts.losses.check(held, path)
    check_optimisers(held, parts.optimisers, list(table_rows(parts.model).values()), path)


def _check(checkpoint: Checkpoint, targets: Mapping[str, Tensor], model: JointModel, path: Path) -> None:
    """Check tensors against those of the same names."""
    check_names(checkpoint, targets, path)
    rows = table_rows(model)
    for name, target in targets.items():
        table = _rows_of(name, rows)
        shape = tuple(target.shape) if table is None else (table.rows, *target.shape[1:])
        check_tensor(checkpoint, name, shape, target.dtype, path)
    for stage in model.stages:
        for prefix in (f"{of}stages.{stage}." for of in ("", "model.", "average.model.")):
            weights = {n.removeprefix(prefix): checkpoint.whole(n) for n in targets if n.startswith(prefix)}
            if weights:
                _check_together(model.network(stage), weights, f"{path}: {prefix}")


def _check_together(network: StageModel, weights: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if a network's weights contradict each other."""
    try:
        network.check_weights(weights)
    except ValueError as error:
        raise CheckpointError(f"{where}{error}; train again") from None


def _named(tensors: Mapping[str, Tensor], facts: dict[str, Any], model: JointModel) -> Checkpoint:
    """Separate the tensors that have rows of tables from the others."""
    rows, whole, tables = table_rows(model), {}, {}
    for name, tensor in tensors.items():
        table = _rows_of(name, rows)
        if table is None or tensor.dim() == 0:
            whole[name] = tensor
        else:
            tables[name] = SplitTable(table.rows, (TablePart(table.buckets, tensor),))
    return Checkpoint(whole, facts, tables)


def _rows_of(name: str, rows: Mapping[str, TableRows]) -> TableRows | None:
    """The rows that a tensor holds, if it has a row for each row of a table."""
    match = _OF_A_TABLE.fullmatch(name)
    if match is None:
        return None
    return rows[match["name"]] if match["name"] else list(rows.values())[int(match["number"])]


@torch.no_grad()
def _copy(checkpoint: Checkpoint, targets: Mapping[str, Tensor], model: JointModel) -> None:
    """Copy tensors, which were checked, into those of the same names."""
    rows = table_rows(model)
    for name, target in targets.items():
        table = _rows_of(name, rows)
        if table is None:
            target.copy_(checkpoint.whole(name))
        elif table.whole:
            first = 0
            for piece in checkpoint.pieces(name):
                target[first : first + len(piece)] = piece
                first += len(piece)
        else:
            target.copy_(checkpoint.take(name, table))
