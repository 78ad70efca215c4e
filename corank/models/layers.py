"""Linear layers and activations, a choice of columns, and what snapshot features add to vectors.

The input decides the precision: weights are cast to its dtype, so bf16 inputs give bf16 products of fp32 weights.

Letters: N rows · h width · d width of vectors · R requests.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.models.inputs.named_axes import name_axes, name_inputs

SNAPSHOT_WIDTH = 16
"""Width of the hidden layer of `SnapshotTerm`."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


class _LinearRelu(torch.autograd.Function):
    """relu(x Wᵀ + b) in one oneDNN call; the backward needs the output alone to know where relu passed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight, out = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, out, 0)
        down = passed @ weight if ctx.needs_input_grad[0] else None
        return down, passed.t() @ x, passed.sum(0)


_fused: Callable[..., Tensor] = _LinearRelu.apply


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer in the precision of its input: (N, ·) → (N, h)."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype), bias)


def activated(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """activation(x · weightᵀ + bias): (N, ·) → (N, h)."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if (
        activation == "relu"
        and x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
    ):
        return _fused(x, weight, bias)
    return ACTIVATIONS[activation](functional.linear(x, weight, bias))


class Columns(nn.Module):
    """Some columns of the dense input."""

    columns: Tensor

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → (N, chosen columns)."""
        return x.index_select(1, self.columns)


class SnapshotTerm(nn.Module):
    """What an item's snapshot features add to its vector: A · relu(B s + b) of the snapshot features s.

    ⟨q, v + A x⟩ = ⟨q, v⟩ + ⟨Aᵀq, x⟩ with x the hidden layer: a candidate costs h products, and A runs once a request.
    """

    def __init__(self, columns: Collection[int], all_columns: int, width: int) -> None:
        """
        Args:
            columns: those of the dense input that it reads.
            all_columns: how many the dense input has.
            width: of the vectors, d.
        """
        super().__init__()
        self.columns = Columns(list(columns)) if len(columns) < all_columns else None
        self.first = nn.Linear(len(columns), SNAPSHOT_WIDTH)
        self.out = nn.Linear(SNAPSHOT_WIDTH, width, bias=False)

    @classmethod
    def of(cls, layout: Layout, width: int, features: Collection[str] | None = None) -> "SnapshotTerm | None":
        """Build the term of vectors of some width.

        Args:
            features: names of features, of which those that are no snapshot features are ignored; all if None.

        Returns None if there is nothing to read.
        """
        names = layout.schema.row_features("snapshot")
        columns = layout.columns("snapshot", [n for n in names if features is None or n in features])
        if not len(columns):
            return None
        term = cls(columns.tolist(), layout.width("snapshot"), width)
        name_axes(term.first, weight=(None, name_inputs(layout, "snapshot", columns.tolist())))
        return term

    def hidden(self, snapshot: Tensor) -> Tensor:
        """In fp32, as the products by candidate are: bf16 saves nothing at this width. (N, ·) → (N, h)."""
        x = snapshot if self.columns is None else self.columns(snapshot)
        return functional.relu(linear(x.float(), self.first), inplace=True)

    def vectors(self, hidden: Tensor) -> Tensor:
        """What is added to vectors: (N, h) → (N, d)."""
        return linear(hidden, self.out)

    def queries(self, query: Tensor) -> Tensor:
        """What of a query's vector meets the hidden layer, Aᵀq: (R, d) → (R, h)."""
        return torch.matmul(query.float(), self.out.weight)
