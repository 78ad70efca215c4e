"""How table rows learn: those of the batch alone are updated, once a step each."""

from collections.abc import Iterable

import torch
from torch import nn

from corank.models.settings.table_optimiser import TableOptimiser
from corank.models.tables.embedding import gather, overwrite_rows


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a table row: s ← d·s + mean(g²), w -= lr · g / (√s + ε); d = 1 unless given.

    Takes sparse, coalesced gradients. Source: row-wise Adagrad of DLRM (arXiv 1906.00091, §4).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8, decay: float = 1.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "decay": decay})
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
