"""Linear layers and activations, and a choice of columns.

The input decides the precision: weights are cast to its dtype, so bf16 inputs give bf16 products of fp32 weights.

Letters: N rows · h width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def activated(x: Tensor, layer: nn.Linear, activation: str) -> Tensor:
    """activation(linear(x)): (N, h)."""
    if (
        activation == "relu"
        and x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
    ):
        return _fused(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
    return ACTIVATIONS[activation](linear(x, layer))


class Columns(nn.Module):
    """Some columns of the dense input."""

    columns: Tensor

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) → (N, chosen columns)."""
        return x.index_select(1, self.columns)
