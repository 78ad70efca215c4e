"""One optimiser for the tables and one a stage, and the running average of all weights."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from corank.embedding import TableOptimiser, Tables, table_optimiser
from corank.joint import JointModel
from corank.settings import Settings


class DenseOptimiser(Settings):
    """How a stage's layers learn."""

    optimiser: Literal["adam"] = "adam"
    lr: PositiveFloat = 0.001
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled, as in AdamW."""


def optimisers(
    model: JointModel, table: TableOptimiser, stages: dict[str, DenseOptimiser]
) -> dict[str, torch.optim.Optimizer]:
    """`table`, and one a stage, by name."""
    built: dict[str, torch.optim.Optimizer] = {"table": table_optimiser(model.tables, table)}
    for name, stage in model.stages.items():
        chosen = stages.get(name, DenseOptimiser())
        built[name] = torch.optim.AdamW(
            stage.parameters(), lr=chosen.lr, weight_decay=chosen.weight_decay, fused=True
        )
    return built


class Average:
    """Exponential average of the weights: a ← d·a + (1 − d)·w after every step, started at the first weights.

    Table rows are averaged when they are touched: between touches a row's weight is constant, so the steps missed
    collapse into one power of d, and the result equals averaging the whole table at every step.
    """

    def __init__(self, model: JointModel, decay: float) -> None:
        self.decay = decay
        self.tables: Tables = model.tables
        self.step = 0
        self.dense = {n: p.detach().clone() for n, p in model.stages.named_parameters()}
        self.rows = {n: p.detach().clone() for n, p in model.tables.named_parameters()}
        self.touched = {n: torch.zeros(len(p), dtype=torch.int32) for n, p in model.tables.named_parameters()}
        self._dense_weights = dict(model.stages.named_parameters())

    @torch.no_grad()
    def before(self) -> None:
        """Catch up the rows that the coming step will change; call with the gradients at hand."""
        for name, table in self.tables.named_parameters():
            if table.grad is not None:
                self._catch_up(name, table, table.grad._indices()[0])

    @torch.no_grad()
    def after(self) -> None:
        """Take in the dense weights that the step has changed."""
        self.step += 1
        torch._foreach_lerp_(list(self.dense.values()), list(self._dense_weights.values()), 1 - self.decay)

    def _catch_up(self, name: str, table: Tensor, rows: Tensor) -> None:
        missed = self.step - self.touched[name].index_select(0, rows)
        kept = torch.pow(self.decay, missed.float()).unsqueeze(1)
        weight = table.index_select(0, rows)
        average = self.rows[name].index_select(0, rows)
        self.rows[name].index_copy_(0, rows, weight + (average - weight) * kept)
        self.touched[name].index_fill_(0, rows, self.step)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, by the model's parameter names."""
        for name, table in self.tables.named_parameters():
            self._catch_up(name, table, torch.arange(len(table)))
        tables = {f"tables.{n}": w for n, w in self.rows.items()}
        return tables | {f"stages.{n}": w for n, w in self.dense.items()}

    def state(self) -> Iterator[tuple[str, Tensor]]:
        for part in ("dense", "rows", "touched"):
            for name, value in getattr(self, part).items():
                yield f"{part}.{name}", value
