"""Several predictions of shared weights: what the members of an MLP have of their own.

Member i's linear layer is y = s_i ∘ (W (r_i ∘ x)) + b_i with W shared. It has logits of its own, and learns by itself:
each loss is the mean of its values for each member. The stage's logit is that of the mean of their probabilities.
Sources: BatchEnsemble, Wen, Tran, Ba, ICLR 2020 (arXiv 2002.06715); TabM, Gorishniy, Kotelnikov, Babenko, ICLR 2025
(arXiv 2410.24210).

Letters: N rows · k members · a, b widths of a layer's input and output.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.models.inputs.named_axes import AxisNames, name_axes


class MemberLinear(nn.Module):
    """A linear layer that members share, with the factors and the bias of each."""

    def __init__(self, count: int, inputs: int | AxisNames, outputs: int, first: bool = False) -> None:
        """
        Args:
            count: members, k.
            inputs: how many, or their names.
            outputs: how many.
            first: whether the factors of the inputs begin at random signs, which makes members differ; at 1 if not.
        """
        super().__init__()
        width, names = (inputs, None) if isinstance(inputs, int) else (len(inputs), inputs)
        bound = 1 / math.sqrt(width)
        signs = torch.randint(0, 2, (count, width)).float() * 2 - 1
        self.weight = nn.Parameter(torch.empty(outputs, width).uniform_(-bound, bound))
        self.of_inputs = nn.Parameter(signs if first else torch.ones(count, width))
        self.of_outputs = nn.Parameter(torch.ones(count, outputs))
        self.bias = nn.Parameter(torch.empty(count, outputs).uniform_(-bound, bound))
        name_axes(self, weight=(None, names), of_inputs=(None, names))

    def stacked(self) -> Tensor:
        """The weights of all members, one below the other: (k · b, a)."""
        return torch.einsum("kb,ba,ka->kba", self.of_outputs, self.weight, self.of_inputs).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, k, a) → (N, k, b)."""
        factors = self.of_inputs.to(x.dtype), self.of_outputs.to(x.dtype), self.bias.to(x.dtype)
        return functional.linear(x * factors[0], self.weight.to(x.dtype)) * factors[1] + factors[2]


def average_members(z: Tensor) -> Tensor:
    """The logit of the mean of members' probabilities: (N, k) → (N,)."""
    return functional.logsigmoid(z).logsumexp(1) - functional.logsigmoid(-z).logsumexp(1)


class MemberHeads(nn.Module):
    """Logits of each member, whose weights are its own, of its hidden units and of inputs that all share."""

    def __init__(self, count: int, read: AxisNames, labels: AxisNames) -> None:
        """
        Args:
            count: members, k.
            read: the names of the hidden units, then of the shared inputs.
            labels: an output each.
        """
        super().__init__()
        bound = 1 / math.sqrt(len(read))
        self.weight = nn.Parameter(torch.empty(count, len(labels), len(read)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, len(labels)).uniform_(-bound, bound))
        name_axes(self, weight=(None, labels, read), bias=(None, labels))

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """(N, k, a), (N, w) → (N, k, labels)."""
        weight, width = self.weight.to(x.dtype), x.shape[2]
        logits = torch.einsum("nka,kla->nkl", x, weight[:, :, :width])
        if shared is not None:
            of_shared = functional.linear(shared, weight[:, :, width:].flatten(0, 1))
            logits = logits + of_shared.unflatten(1, (weight.shape[0], weight.shape[1]))
        return logits + self.bias.to(x.dtype)
