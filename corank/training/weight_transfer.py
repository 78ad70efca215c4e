"""Takes a plan's weights, optimiser states and average over; and a trained model to another packing, to judge it.

Of tables, each rank takes the rows that it holds. What is not taken over stays as it was drawn, and its optimiser
state is that of weights that have never learnt. On another packing each value that the run knows has its row, and every
other the row of unknown values: the model scores as with its own encoders, except for values that the packing lacks.

Letters: N rows that a tensor holds.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corank.core.errors import DataError
from corank.core.objects import Location
from corank.core.types import Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.packs import open_with_features
from corank.distributed.row_shards import BUCKETS, RowShards
from corank.evaluation.predictions import Calibrators
from corank.features.row_map import FRESH, PackingMap, RowMap
from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import Checkpoint, TableRows, reading
from corank.training.checkpoints.training_state import PREFIX, Optimisers, table_rows, take_part
from corank.training.model_building import build_model, build_networks
from corank.training.optimisers import Average, optimisers
from corank.training.run import Run
from corank.training.trainer import Trainer
from corank.training.warm_start_plan import OF_MODEL, WarmStartPlan, WeightMap, find_encoders

ROWS = 1 << 18
"""Rows that are copied at a time."""


def dimension_of(table: str) -> int:
    """The dimension of a table, from a name such as `shared.weights.16`."""
    return int(table.rpartition(".")[2])


@torch.no_grad()
def fill_rows(
    target: Tensor, rows: TableRows, found: RowMap, held: Checkpoint, name: str, known: bool = False
) -> None:
    """Copy earlier rows into a tensor with a row for each row of a table; the others stay as they are.

    Args:
        target: (N, ...).
        rows: which rows of the table it holds.
        found: where each row of the table comes from.
        held: the checkpoint with the earlier rows.
        name: of the earlier tensor.
        known: leave out values that the earlier table did not know, which would begin as the row of unknown ones.
    """
    numbers = _row_numbers(rows)
    for first in range(0, len(numbers), ROWS):
        some = numbers[first : first + ROWS]
        at = np.flatnonzero(some < rows.rows)
        number = some[at]
        carried = found.source[number] != FRESH
        if known:
            carried &= found.kept[number]
        source = torch.from_numpy(found.source[number[carried]])
        values = held.gather(name, source).to(target.device)
        target.index_copy_(0, torch.from_numpy(at[carried] + first).to(target.device), values)


def _row_numbers(rows: TableRows) -> Longs:
    """The row of the table that each row of a tensor stands for; the table's size or above for none: (N,)."""
    if rows.whole:
        return np.arange(rows.rows)
    depth = np.arange(RowShards(rows.rows).depth)[:, None] * BUCKETS
    return (depth + np.arange(rows.buckets.start, rows.buckets.stop)).ravel()


def carry_optimisers(plan: WarmStartPlan, model: JointModel, new: Optimisers) -> None:
    """Take over the states that belong to the weights of a new model that go over; `new` are its, not begun."""
    held, train, before = plan.source.latest, plan.source.run.config.train, plan.source.networks
    places = _places(before, optimisers(before, train.table, train.stages))
    earlier = {key: f"{PREFIX}{name}.{number}." for name, number, key, _ in places}
    carried = {layer.new.key: layer for layer in plan.carried.values()}
    tables, states = table_rows(model), {name: optimiser.state_dict() for name, optimiser in new.items()}
    for name, number, key, parameter in _places(model, new):
        table, begin = None, None
        if name == "table":
            table = key.removeprefix("tables.")
            if plan.same_table_optimiser and (source := plan.earlier_table(table)) is not None:
                begin = earlier[f"tables.{source}"]
        elif key in carried:
            begin = earlier[carried[key].earlier.key]
        state: dict[str, Any] = {}
        for full in held.names if begin is not None else ():
            part = full.removeprefix(begin or "")
            if part == full or "." in part:
                continue
            # a weight that is a number by itself has moments of that shape, too
            if part == "step":
                state[part] = take_part(held, full)
            elif table is not None:
                state[part] = parameter.new_zeros(len(parameter), *held.shape(full)[1:])
                row_map = plan.rows.table(dimension_of(table))
                fill_rows(state[part], tables[table], row_map, held, full, known=True)
            else:
                state[part] = torch.zeros_like(parameter)
                carried[key].fill(state[part], held.whole(full))
        if state:
            states[name]["state"][number] = state
    for name, optimiser in new.items():
        optimiser.load_state_dict(states[name])


def _places(
    model: JointModel, of: Mapping[str, torch.optim.Optimizer]
) -> Iterator[tuple[str, int, str, Tensor]]:
    """Yield the place of each weight among the optimisers, name and number, its name in the model's state, and it."""
    keys = {id(parameter): key for key, parameter in model.named_parameters()}
    for name, optimiser in of.items():
        for number, parameter in enumerate(p for group in optimiser.param_groups for p in group["params"]):
            yield name, number, keys[id(parameter)], parameter


def warm_start(plan: WarmStartPlan, trainer: Trainer) -> None:
    """Take everything over into a trainer that has not begun. Steps and epochs continue from those of the source."""
    with reading(plan.source.run.folder):
        checkpoint, prefix = plan.source.weights
        carry_weights(plan, trainer.model, checkpoint, prefix)
        carry_optimisers(plan, trainer.model, trainer.optimisers)
        trainer.loss_state.carry(plan.source.latest)
        trainer.progress.step = plan.source.progress.step
        trainer.progress.epochs_before = plan.source.epochs
        if trainer.average is not None:
            trainer.average.restart(trainer.progress.step)
            if plan.carries_average:
                _carry_average(plan, trainer.model, trainer.average)


def carry_weights(
    plan: WeightMap,
    model: JointModel,
    held: Checkpoint,
    prefix: str,
    targets: Mapping[str, Tensor] | None = None,
) -> None:
    """Take the weights of a checkpoint over into a model, or tensors named as its; `prefix` is before names there."""
    targets = model.state_dict() if targets is None else targets
    for layer in plan.carried.values():
        layer.fill(targets[layer.new.key], held.whole(f"{prefix}{layer.earlier.key}"))
    _fill_tables(plan, model, held, "tables.", f"{prefix}tables.", targets)


def _carry_average(plan: WarmStartPlan, model: JointModel, average: Average) -> None:
    state, latest = average.state(), plan.source.latest
    weights = {name.removeprefix(OF_MODEL): t for name, t in state.items() if name.startswith(OF_MODEL)}
    carry_weights(plan, model, latest, f"average.{OF_MODEL}", weights)
    _fill_tables(plan, model, latest, "seen.", "average.seen.", state)


def _fill_tables(
    plan: WeightMap, model: JointModel, held: Checkpoint, new: str, old: str, targets: Mapping[str, Tensor]
) -> None:
    """Copy what there is of the rows of tables; `new` and `old` are before their names in both."""
    for table, rows in table_rows(model).items():
        if (earlier := plan.earlier_table(table)) is not None:
            row_map = plan.rows.table(dimension_of(table))
            fill_rows(targets[f"{new}{table}"], rows, row_map, held, f"{old}{earlier}")


def bring_onto(run: Run, location: Location) -> tuple[PackedDataset, JointModel, Calibrators, dict[str, int]]:
    """Bring a run's model onto the codes of other packed data.

    Args:
        run: a finished run.
        location: of the packed data: a folder or a URL.

    Returns the packed data with the run's features alone, model and calibrators, and by feature how many values the run
    knows and the packing does not, which count as unknown; without those of none. Raises CheckpointError, StorageError;
    DataError if features or labels are missing there, or are encoded otherwise than by a vocabulary, so that the run's
    layers would read other numbers.
    """
    checkpoint, calibrators = run.shipped()
    packed = open_with_features(location, run.config.declared)
    _require_log(run, packed, location)
    packing_map = PackingMap(find_encoders(run, checkpoint.facts["codes"]), packed.encoders)
    _require_same_codes(run, packing_map, location)
    model = build_model(run.config, packed)
    earlier = build_networks(run.config, packing_map.earlier)
    with reading(run.checkpoint):
        carry_weights(WeightMap.find(earlier, model, packing_map), model, checkpoint, "")
    lost = {name: rows.gone for name, rows in packing_map.features.items() if rows.gone}
    return packed, model, calibrators, lost


def _require_log(run: Run, packed: PackedDataset, location: Location) -> None:
    """Raise DataError unless the packed log has the levels, labels and columns that a run is judged by."""
    ours, theirs = run.config.data, packed.data
    needed = {label for stage in run.config.stages for label in stage.labels}
    for what, wanted, present in (
        ("levels", list(ours.levels), list(theirs.levels)),
        ("labels", sorted(needed), sorted(needed & set(theirs.labels))),
        ("columns", sorted(ours.columns), sorted(set(ours.columns) & set(theirs.columns))),
    ):
        if wanted != present:
            raise DataError(
                f"{location}: data.{what}: {run.folder} needs {', '.join(wanted)}; found {', '.join(present) or 'none'}"
            )


def _require_same_codes(run: Run, packing_map: PackingMap, location: Location) -> None:
    """Raise DataError if a feature is no vocabulary and is encoded otherwise than in the run."""
    others = [name for name, rows in packing_map.features.items() if not rows.carried]
    others += [
        name
        for name, encoder in packing_map.new.fitted.items()
        if not encoder.size
        and name in packing_map.earlier.fitted
        and not encoder.equals(packing_map.earlier.fitted[name])
    ]
    if others:
        raise DataError(
            f"{location}: its scales, buckets or hashes are others than those that {run.folder} was trained on: "
            f"{', '.join(others)}; judge it on data packed by `corank pack --from`, which keeps them, or compare the "
            "scores that `corank predict` writes of one log"
        )
