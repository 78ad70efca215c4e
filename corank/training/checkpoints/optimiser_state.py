"""The states of optimisers as named tensors: `optimiser.NAME.NUMBER.PART`, NUMBER of the parameter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corank.core.errors import CheckpointError
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.split_table import TableRows

Optimisers = Mapping[str, torch.optim.Optimizer]
"""`table`, and one of each stage."""
PREFIX = "optimiser."
ADAM = {"step", "exp_avg", "exp_avg_sq"}
"""The parts that optimisers without a state have after their first step."""


def optimiser_tensors(optimisers: Optimisers) -> dict[str, Tensor]:
    """The tensors of all states, not copied. Before the first step many optimisers have none."""
    return {
        f"{PREFIX}{name}.{number}.{part}": torch.as_tensor(value)
        for name, optimiser in optimisers.items()
        for number, state in optimiser.state_dict()["state"].items()
        for part, value in state.items()
    }


def restore_optimisers(
    held: Checkpoint, optimisers: Optimisers, tables: Sequence[TableRows], path: Path
) -> None:
    """Take the states of new optimisers over from a checkpoint.

    Args:
        held: the checkpoint; of its tensors those that `optimiser_tensors` names are read.
        optimisers: as they are before the first step.
        tables: the rows that this rank holds of each table, in the order of the optimiser `table`.
        path: of the checkpoint, for messages.

    Raises CheckpointError if names or shapes are not those of the optimisers.
    """
    left = {name for name in held.names if name.startswith(PREFIX)}
    for name, optimiser in optimisers.items():
        prefix = f"{PREFIX}{name}."
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        before = optimiser.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for number, parameter in enumerate(parameters):
            table = tables[number] if name == "table" else None
            parts = set(before["state"].get(number, ())) or ADAM
            found = {part for part in parts if f"{prefix}{number}.{part}" in left}
            if found and found != parts:
                raise CheckpointError(
                    f"{path}: {prefix}{number}: {min(parts - found)} is missing; train again"
                )
            for part in found:
                tensor = _take(held, f"{prefix}{number}.{part}", parameter, table, path)
                # an optimiser that counts its steps in a Python int rounds otherwise with a tensor
                state.setdefault(number, {})[part] = (
                    tensor if tensor.is_floating_point() else int(tensor.item())
                )
                left.discard(f"{prefix}{number}.{part}")
        optimiser.load_state_dict({**before, "state": state})
    if left:
        raise CheckpointError(f"{path}: {min(left)} is of another optimiser; train again")


def _take(held: Checkpoint, name: str, parameter: Tensor, table: TableRows | None, path: Path) -> Tensor:
    """Copy a part of a parameter's state: a number, or as large as the parameter, or a number for each table row."""
    whole = tuple(parameter.shape) if table is None else (table.rows, *parameter.shape[1:])
    shape = held.shape(name)
    if shape not in ((), whole) and (table is None or shape != whole[:1]):
        raise CheckpointError(f"{path}: {name}: expected the shape {whole}; found {shape}; train again")
    return held.whole(name).clone() if table is None or not shape else held.take(name, table)
