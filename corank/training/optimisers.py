"""One optimiser for the tables and one per stage, and the running average of all weights."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from corank.models.joint import JointModel
from corank.models.tables.embedding import gather, overwrite_rows
from corank.training.config.settings import DenseOptimiser, TableOptimiser
from corank.training.eager_optimisers import skip_compiler

TERM_RATE = 10
"""Learning rate of terms of positions, and of what losses learn, over that of layers: each term is a number by
itself."""


def optimisers(
    model: JointModel, table: TableOptimiser, stages: dict[str, DenseOptimiser]
) -> dict[str, torch.optim.Optimizer]:
    """Build the optimisers: `table`, and one per stage or teacher, by name."""
    skip_compiler()
    projections = {set_name: list(part.parameters()) for set_name, part in model.projections.items()}
    built: dict[str, torch.optim.Optimizer] = {"table": table_optimiser(model.tables.parameters(), table)}
    for name, stage in model.networks.items():
        chosen = stages.get(name, DenseOptimiser())
        terms = [*model.terms(name).values(), *model.loss_parameters(name).values()]
        layers = [p for p in stage.parameters() if all(p is not term for term in terms)]
        # the projections of shared tables learn at the rate of the first stage
        layers += projections.pop(model.tables_of[name], [])
        groups: list[dict[str, Any]] = [{"params": layers, "weight_decay": chosen.weight_decay}]
        if terms:
            groups.append({"params": terms, "weight_decay": 0.0, "lr": TERM_RATE * chosen.lr})
        built[name] = torch.optim.AdamW(groups, lr=chosen.lr, fused=True)
    return built


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a table row: s ← d·s + mean(g²), w -= lr · g / (√s + ε); d = 1 unless given.

    Takes sparse, coalesced gradients. Source: row-wise Adagrad of DLRM (arXiv 1906.00091, §4).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, decay: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr, "eps": 1e-8, "decay": decay})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table]["sum"] = table.new_zeros(len(table))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, gradient = table.grad._indices()[0], table.grad._values()
                total = self.state[table]["sum"]
                seen = total.index_select(0, rows).mul_(group["decay"]) + gradient.square().mean(1)
                total.index_copy_(0, rows, seen)
                change = gradient / (seen.sqrt() + group["eps"]).unsqueeze(1)
                # rows are distinct: gather and write back is several times faster than index_add_
                overwrite_rows(table, rows, gather(table, rows).sub_(change, alpha=group["lr"]))


def table_optimiser(tables: Iterable[nn.Parameter], settings: TableOptimiser) -> torch.optim.Optimizer:
    """The optimiser of the tables that the settings name."""
    parameters = list(tables)
    if settings.optimiser == "lazy_adam":
        return torch.optim.SparseAdam(parameters, lr=settings.lr)
    return RowwiseAdagrad(parameters, lr=settings.lr, decay=settings.decay)


class Average:
    """Exponential average of the weights: a ← a + (w − a)·(1 − d) / (1 − dᵗ) after step t.

    So it is the mean of what the steps left, each weighted d times as much as the next; the first, random weights have
    no part in it. Weights that were taken over stand for the steps before them. Source: the correction of Adam's
    averages for their start (arXiv 1412.6980, §3).

    Table rows are averaged when they are touched: between touches, after steps s and t, a row's weight is constant, so
    the steps missed collapse into a ← w + (a − w)·dᵗ⁻ˢ·(1 − dˢ) / (1 − dᵗ), and the result equals averaging the whole
    table at every step.
    """

    def __init__(self, model: JointModel, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.begun = 0
        """The step after which it began."""
        self._model, self._averaged = model, copy.deepcopy(model)
        tables = model.tables.named_parameters()
        self.seen = {n: torch.zeros(len(t), dtype=torch.int32, device=t.device) for n, t in tables}
        """By table, the step up to which each row's average is up to date."""

    @torch.no_grad()
    def restart(self, step: int) -> None:
        """Begin at the weights as they are now, after so many steps."""
        self._averaged.load_state_dict(self._model.state_dict())
        self.step = step
        for seen in self.seen.values():
            seen.fill_(step)

    @torch.no_grad()
    def before(self) -> None:
        """Bring the averages of the rows that the next update changes up to date; call after the backward pass."""
        for name, table in self._model.tables.named_parameters():
            if table.grad is not None:
                self._catch_up(name, table, table.grad._indices()[0])

    @torch.no_grad()
    def after(self) -> None:
        """Average the layers' weights at the end of a step, of one update or several."""
        self.step += 1
        rate = (1 - self.decay) / (1 - self.decay ** (self.step - self.begun))
        torch._foreach_lerp_(_dense(self._averaged), _dense(self._model), rate)

    def _catch_up(self, name: str, table: Tensor, rows: Tensor) -> None:
        if self.step == self.begun:
            return
        target = self._averaged.tables.get_parameter(name)
        seen = self.seen[name].index_select(0, rows)
        weight, average = gather(table, rows), gather(target, rows)
        log = math.log(self.decay)
        # 1 − dˢ would lose most digits of a float if d is close to 1
        kept = torch.exp((self.step - seen) * log) * torch.expm1((seen - self.begun) * log)
        kept = (kept / math.expm1((self.step - self.begun) * log)).unsqueeze(1)
        overwrite_rows(target, rows, weight + (average - weight) * kept)
        self.seen[name].index_fill_(0, rows, self.step)

    @torch.no_grad()
    def model(self) -> JointModel:
        """The model of the averaged weights; later steps change it."""
        for name, table in self._model.tables.named_parameters():
            self._catch_up(name, table, torch.arange(len(table), device=table.device))
        return self._averaged

    def state(self) -> dict[str, Tensor]:
        """The tensors of the average that a checkpoint must hold, not copied."""
        return {f"seen.{n}": t for n, t in self.seen.items()} | self._averaged.state_dict(prefix="model.")


def _dense(model: JointModel) -> list[Tensor]:
    """All weights except those of the tables."""
    return list[Tensor](model.layers(model.networks))
