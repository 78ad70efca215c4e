"""Takes a plan's weights, optimiser states and average over into a model under training.

Of tables, each rank takes the rows that it holds. What is not taken over stays as it was drawn, and its optimiser
state is that of weights that have never learnt.
"""

from collections.abc import Mapping

from torch import Tensor

from corank.models.joint import JointModel
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.training_state import table_rows
from corank.training.optimisers import Average
from corank.training.trainer import Trainer
from corank.training.warm_start.optimiser_states import OptimiserStates
from corank.training.warm_start.plan import WarmStartPlan, WeightMap
from corank.training.warm_start.rows import dimension_of, fill_rows
from corank.training.warm_start.source import OF_MODEL


def warm_start(plan: WarmStartPlan, trainer: Trainer) -> None:
    """Take everything over into a trainer that has not begun. Steps and epochs continue from those of the source."""
    checkpoint, prefix = plan.source.weights
    carry_weights(plan, trainer.model, checkpoint, prefix)
    OptimiserStates(plan).carry_into(trainer.model, trainer.optimisers)
    trainer.progress.step = plan.source.progress.step
    trainer.progress.epochs_before = plan.source.epochs
    if trainer.average is not None:
        trainer.average.restart(trainer.progress.step)
        if plan.carries_average:
            _carry_average(plan, trainer.model, trainer.average)


def carry_weights(plan: WeightMap, model: JointModel, held: Checkpoint, prefix: str) -> None:
    """Take the weights of a checkpoint over into a model; `prefix` is before their names there."""
    _fill(plan, model, model.state_dict(), held, prefix)


def _carry_average(plan: WarmStartPlan, model: JointModel, average: Average) -> None:
    state, checkpoint = average.state(), plan.source.latest
    weights = {name.removeprefix(OF_MODEL): t for name, t in state.items() if name.startswith(OF_MODEL)}
    _fill(plan, model, weights, checkpoint, f"average.{OF_MODEL}")
    for table, rows in table_rows(model).items():
        if (earlier := plan.earlier_table(table)) is not None:
            row_map = plan.rows.table(dimension_of(table))
            fill_rows(state[f"seen.{table}"], rows, row_map, checkpoint, f"average.seen.{earlier}")


def _fill(
    plan: WeightMap, model: JointModel, targets: Mapping[str, Tensor], checkpoint: Checkpoint, prefix: str
) -> None:
    """Copy weights, by their names in a model's state."""
    for layer in plan.layers.carried.values():
        layer.fill(targets[layer.new.key], checkpoint.whole(f"{prefix}{layer.earlier.key}"))
    for table, rows in table_rows(model).items():
        if (earlier := plan.earlier_table(table)) is not None:
            row_map = plan.rows.table(dimension_of(table))
            fill_rows(targets[f"tables.{table}"], rows, row_map, checkpoint, f"{prefix}tables.{earlier}")
