"""The states of optimisers as named tensors: `optimiser.NAME.NUMBER.PART`, NUMBER of the parameter."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.split_table import TableRows
from corank.training.checkpoints.tensor_checks import check_tensor

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
