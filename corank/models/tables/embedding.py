"""Embedding tables, one a dimension: read in bags, their gradients summed by row.

Letters: B bags · U distinct table rows of a batch · d dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corank.batches.batch import Csr, TableLookup
from corank.distributed.row_shards import BUCKETS


def gather(matrix: Tensor, row: Tensor) -> Tensor:
    """matrix[row]: (N, d). On a CPU by bags of one row, since those prefetch: about twice as fast as index_select."""
    if matrix.device.type != "cpu" or not matrix.shape[1]:  # bags of no numbers fail on several threads
        return matrix.index_select(0, row)
    start = torch.arange(len(row) + 1, dtype=row.dtype)
    out: Tensor = torch.ops.aten.embedding_bag(matrix, row, start, False, 0, False, None, True)[0]
    return out


def overwrite_rows(matrix: Tensor, row: Tensor, values: Tensor) -> None:
    """matrix[row] = values, of distinct rows: (U, d). On a CPU a row is one item: a third of index_copy_'s time."""
    if matrix.device.type != "cpu":
        matrix.index_copy_(0, row, values)
        return
    whole_row = np.dtype((np.void, matrix.shape[1] * matrix.element_size()))
    table, written = matrix.detach().numpy(), values.contiguous().numpy()
    np.put(table.view(whole_row), row.numpy(), written.view(whole_row))


def sum_rows(matrix: Tensor, csr: Csr) -> Tensor:
    """Rows of `matrix` summed as `csr` says, in its fixed order: (B, d)."""
    if csr.start is None:
        return gather(matrix, csr.row)
    if not matrix.shape[1]:
        return matrix.new_empty((len(csr.start) - 1, 0))
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
        return row_gradient(lookup.touched, summed, ctx.shape), None


_look_up: Callable[..., tuple[Tensor, ...]] = _LookUp.apply


def row_gradient(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """The sparse gradient of a table: of distinct rows (U,), ascending, the values (U, d)."""
    return torch.sparse_coo_tensor(
        rows.long().unsqueeze(0), values, shape, is_coalesced=True, check_invariants=False
    )


class Tables(nn.Module):
    """A set of tables, one a dimension, whole on this rank."""

    def __init__(self, weights: Mapping[int, Tensor], buckets: range = range(BUCKETS)) -> None:
        """`weights`: the rows of some buckets by dimension: (rows, d) each."""
        super().__init__()
        self.weights = nn.ParameterDict({str(dim): nn.Parameter(weight) for dim, weight in weights.items()})
        self.buckets = buckets
        """The buckets (`RowShards`) whose rows this rank has; if it has all, they are in the order of the table."""

    def forward(self, lookups: dict[int, TableLookup]) -> dict[int, tuple[Tensor, ...]]:
        """Bag sums by table dimension, one (B, d) for each placement of `lookup.reads`, in that order."""
        return {dim: _look_up(self.weights[str(dim)], lookup) for dim, lookup in lookups.items()}

    @property
    def reached(self) -> list[bool]:
        """By dimension, whether the latest backward pass reached the table on this rank."""
        return [weight.grad is not None for weight in self.weights.values()]

    def fetch(self, lookups: dict[int, TableLookup]) -> None:
        """Begin to get the rows that the next forward pass reads. A collective; one rank has nothing to do.

        The rows are as they are now: until then no update may change them.
        """

    def send_gradients(self) -> None:
        """Begin to send the gradients of this rank to others. A collective; one rank has nothing to do."""

    def sum_gradients(self, reached: Sequence[bool]) -> None:
        """Sum the gradients of all ranks, each row's in rank order, once they are sent.

        Args:
            reached: by dimension, whether some rank has a gradient; one without counts as zeros then.
        """
