"""Linear layers and activations, a choice of columns, and what snapshot features add to vectors.

The input decides the precision: weights are cast to its dtype, so bf16 inputs give bf16 products of fp32 weights.

Letters: N rows · h width · d width of vectors · R requests.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.features.input_layout import Layout
from corank.models.named_axes import name_axes, name_inputs

SNAPSHOT_WIDTH = 16
"""Width of the hidden layer of `SnapshotTerm`."""
MINUS_INFINITY = -128
"""Its bits in bf16 as an integer: negative numbers have no larger ones, but a NaN that has a sign does."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


@cache
def has_fused_relu() -> bool:
    """Whether oneDNN computes relu(x Wᵀ + b) in bf16 in one call on this processor.

    It lacks that without AVX-512, and the operation is none of torch's public ones: so it is tried, once.
    """
    try:
        torch.ops.mkldnn._linear_pointwise(*torch.zeros(2, 1, 1, dtype=torch.bfloat16), None, "relu", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True


class _ReluLayers(torch.autograd.Function):
    """Layers relu(x Wᵀ + b) one above the other, each in one oneDNN call, weights cast to the precision of x.

    The backward needs outputs alone to know where relu passed. It works in place where a gradient is between two
    layers, and sums up a bias's gradient first, while what it adds up is in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights_and_biases: Tensor) -> Tensor:
        parameters = [part.to(x.dtype) for part in weights_and_biases]
        weights, passed = parameters[::2], [x]
        for weight, bias in zip(weights, parameters[1::2], strict=True):
            passed.append(torch.ops.mkldnn._linear_pointwise(passed[-1], weight, bias, "relu", [], ""))
        ctx.save_for_backward(*weights, *passed)
        return passed[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count = len(ctx.saved_tensors) // 2
        weights, (*inputs, out) = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        down = _relu_backward(gradient, out, torch.empty_like(out))
        gradients: list[Tensor] = []
        for depth in reversed(range(count)):
            bias = down.sum(0).float()
            gradients = [_weight_gradient(down, inputs[depth]), bias, *gradients]
            if depth:
                down = down @ weights[depth]
                _relu_backward(down, inputs[depth], down)
        return (down @ weights[0] if ctx.needs_input_grad[0] else None), *gradients


_relu_layers: Callable[..., Tensor] = _ReluLayers.apply


def _relu_backward(gradient: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """Write the gradient where relu passed, and 0 elsewhere: of bf16, whose sign and order 16-bit integers share.

    So nothing is converted to fp32 and back, which takes three times as long.
    """
    gradient, out, bits = (x.view(torch.int16) for x in (gradient, out, into))
    torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=bits)
    return into


class _ReluInPlace(torch.autograd.Function):
    """relu of bf16 in place, as integers for the same reason."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        torch.threshold_(x.view(torch.int16), MINUS_INFINITY, 0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return _relu_backward(gradient, out, torch.empty_like(out))


def relu_in_place(x: Tensor) -> Tensor:
    """Apply relu, in bf16 on a CPU in a fifth of the time of `relu_`: (N, h)."""
    of_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    relu: Callable[[Tensor], Tensor] = _ReluInPlace.apply
    return relu(x) if of_cpu else x.relu_()


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gradientᵀ · x in fp32: (N, h), (N, a) → (h, a). A product transposes its left factor, so the narrower is left."""
    if x.shape[1] < gradient.shape[1]:
        return (x.t() @ gradient).t().to(torch.float32, memory_format=torch.contiguous_format)
    return (gradient.t() @ x).float()


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply a linear layer in the precision of its input: (N, ·) → (N, h)."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype), bias)


def activated(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    """activation(x · weightᵀ + bias): (N, ·) → (N, h)."""
    if _fuses(x, activation):
        return _relu_layers(x, weight, bias)
    return ACTIVATIONS[activation](functional.linear(x, weight.to(x.dtype), bias.to(x.dtype)))


def activated_layers(x: Tensor, layers: Sequence[nn.Linear], activation: str, dropout: float = 0.0) -> Tensor:
    """Layers one above the other, each activated and with this dropout: (N, ·) → (N, h)."""
    if layers and not dropout and _fuses(x, activation):
        return _relu_layers(x, *(part for layer in layers for part in (layer.weight, layer.bias)))
    for layer in layers:
        x = functional.dropout(activated(x, layer.weight, layer.bias, activation), dropout)
    return x


def _fuses(x: Tensor, activation: str) -> bool:
    """Whether `_ReluLayers` computes layers on such an input."""
    of_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return of_cpu and activation == "relu" and torch.is_grad_enabled() and has_fused_relu()


class Columns(nn.Module):
    """Some columns of the dense input."""

    columns: Tensor

    def __init__(self, columns: list[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        first = columns[0] if columns else 0
        self._slice = (
            slice(first, first + len(columns)) if columns == [*range(first, first + len(columns))] else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) → (…, chosen columns)."""
        if self._slice is not None and torch.compiler.is_exporting():  # in a tenth of the time
            return x[..., self._slice]
        return x.index_select(-1, self.columns)


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
