"""Embedding tables, one a dimension: read in bags, their gradients summed by row, updated on the rows touched only.

Letters: B bags · U distinct table rows of a batch · d dimension.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from corank.batches.batch import Csr, TableLookup
from corank.core.settings import Settings
from corank.features.input_layout import Layout


class TableOptimiser(Settings):
    """How the embedding tables learn; only rows of the batch are touched."""

    optimiser: Literal["rowwise_adagrad", "lazy_adam"] = "rowwise_adagrad"
    lr: PositiveFloat = 0.05


def gather(matrix: Tensor, row: Tensor) -> Tensor:
    """matrix[row]: (N, d). On a CPU by bags of one row, since those prefetch: about twice as fast as index_select."""
    if matrix.device.type != "cpu":
        return matrix.index_select(0, row)
    start = torch.arange(len(row) + 1, dtype=row.dtype)
    out: Tensor = torch.ops.aten.embedding_bag(matrix, row, start, False, 0, False, None, True)[0]
    return out


def sum_rows(matrix: Tensor, csr: Csr) -> Tensor:
    """Rows of `matrix` summed as `csr` says, in its fixed order: (B, d)."""
    if csr.start is None:
        return gather(matrix, csr.row)
    # positional: scale_grad_by_freq, mode (0 = sum), sparse, per_sample_weights, include_last_offset
    out: Tensor = torch.ops.aten.embedding_bag(matrix, csr.row, csr.start, False, 0, False, csr.weight, True)[
        0
    ]
    return out


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, lookup: TableLookup) -> tuple[Tensor, ...]:
        ctx.lookup, ctx.shape = lookup, table.shape
        return tuple(sum_rows(table, read) for read in lookup.reads.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        lookup: TableLookup = ctx.lookup
        summed = sum_rows(torch.cat(gradients), lookup.back)
        rows = lookup.touched.long().unsqueeze(0)
        return torch.sparse_coo_tensor(
            rows, summed, ctx.shape, is_coalesced=True, check_invariants=False
        ), None


class Tables(nn.Module):
    """The tables of a layout. Rows for missing and unknown values begin at zero, the others near it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.weights = nn.ParameterDict()
        for dim, rows in layout.table_rows.items():
            weight = torch.empty(rows, dim).normal_(std=0.02)
            weight[torch.from_numpy(layout.untrained()[dim]).long()] = 0
            self.weights[str(dim)] = nn.Parameter(weight)

    def forward(self, lookups: dict[int, TableLookup]) -> dict[int, tuple[Tensor, ...]]:
        """Bag sums by table dimension, one (B, d) for each placement of `lookup.reads`, in that order."""
        apply: Callable[..., tuple[Tensor, ...]] = _LookUp.apply
        return {dim: apply(self.weights[str(dim)], lookup) for dim, lookup in lookups.items()}


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a table row: s += mean(g²), w -= lr · g / (√s + ε).

    Takes sparse, coalesced gradients. Source: row-wise Adagrad as of DLRM (arXiv 1906.00091, §4).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table]["sum"] = torch.zeros(len(table), device=table.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, gradient = table.grad._indices()[0], table.grad._values()
                total = self.state[table]["sum"]
                seen = total.index_select(0, rows) + gradient.square().mean(1)
                total.index_copy_(0, rows, seen)
                change = gradient / (seen.sqrt() + group["eps"]).unsqueeze(1)
                # rows are distinct: gather and copy back is several times faster than index_add_
                table.index_copy_(0, rows, gather(table, rows).sub_(change, alpha=group["lr"]))


def table_optimiser(tables: Iterable[nn.Parameter], settings: TableOptimiser) -> torch.optim.Optimizer:
    """The optimiser of the tables that the settings name."""
    parameters = list(tables)
    if settings.optimiser == "lazy_adam":
        return torch.optim.SparseAdam(parameters, lr=settings.lr)
    return RowwiseAdagrad(parameters, lr=settings.lr)
