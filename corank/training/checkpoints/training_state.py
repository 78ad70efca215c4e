"""The state of a training as named tensors: weights, optimiser states, average, what losses keep.

Tables, and what is kept of each of their rows, are tables of the checkpoint: each rank gives and takes the rows that it
holds. Their names are the same whatever the number of ranks.

States of optimisers are named `optimiser.NAME.NUMBER.PART`, NUMBER of the parameter.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import (
    Checkpoint,
    SplitTable,
    TablePart,
    TableRows,
    reading,
)

Optimisers = Mapping[str, torch.optim.Optimizer]
"""`table`, and one of each stage."""
PREFIX = "optimiser."


def optimiser_tensors(optimisers: Optimisers) -> dict[str, Tensor]:
    """The tensors of all states, not copied. Before the first step many optimisers have none."""
    return {
        f"{PREFIX}{name}.{number}.{part}": torch.as_tensor(value)
        for name, optimiser in optimisers.items()
        for number, state in optimiser.state_dict()["state"].items()
        for part, value in state.items()
    }


def restore_optimisers(held: Checkpoint, optimisers: Optimisers, tables: Sequence[TableRows]) -> None:
    """Take the states of new optimisers over from a checkpoint.

    Args:
        held: the checkpoint.
        optimisers: as they are before the first step.
        tables: the rows that this rank holds of each table, in the order of the optimiser `table`.
    """
    restored: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in optimisers}
    for name in held.names:
        if name.startswith(PREFIX):
            optimiser, number, part = name.removeprefix(PREFIX).split(".")
            table = tables[int(number)] if optimiser == "table" else None
            restored[optimiser].setdefault(int(number), {})[part] = take_part(held, name, table)
    for name, new in optimisers.items():
        new.load_state_dict({**new.state_dict(), "state": restored[name]})


def take_part(checkpoint: Checkpoint, name: str, table: TableRows | None = None) -> Any:
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
    return name_tensors(model.state_dict(), facts, model)


def restore_model(held: Checkpoint, model: JointModel, path: Path) -> None:
    """Copy weights into a model, of tables the rows that this rank holds.

    Raises CheckpointError, which names the checkpoint's path, if they are not those of the model.
    """
    with reading(path):
        copy_tensors(held, model.state_dict(), model)


def name_tensors(tensors: Mapping[str, Tensor], facts: dict[str, Any], model: JointModel) -> Checkpoint:
    """Make a checkpoint of tensors, not copied: those that have rows of tables of a model are tables."""
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
def copy_tensors(checkpoint: Checkpoint, targets: Mapping[str, Tensor], model: JointModel) -> None:
    """Copy tensors of a checkpoint into those of the same names, of tables of a model the rows that this rank holds."""
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
