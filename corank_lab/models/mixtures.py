"""Several networks in one: members, whose predictions are averaged, and experts, which gates mix.

Member i's linear layer is y = s_i ∘ (W (r_i ∘ x)) + b_i with W shared. It has logits of its own, and learns by itself:
each loss is the mean of its values for each member. The stage's logit is that of the mean of their probabilities.
Sources: BatchEnsemble, Wen, Tran, Ba, ICLR 2020 (arXiv 2002.06715); TabM, Gorishniy, Kotelnikov, Babenko, ICLR 2025
(arXiv 2410.24210).

Experts are small layers side by side, mixed for each label by a gate of its own. With x the hidden units below,
e_j(x) = act(W_j x + b_j) and g = softmax(G_l x), label l reads Σ_j g_j e_j(x). Without experts of a label's own these
are MMoE's; with them, which other labels do not mix, PLE's. On several levels shared experts read a mixture of all
experts below, a label's own ones and its gate the label's mixture.
Sources: MMoE, Ma et al., KDD 2018; PLE, Tang et al., RecSys 2020.

Letters: N rows · k members · a, b widths of a layer's input and output · L labels · s shared experts · o own ones of a
label.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corank.models.layers import ACTIVATIONS, activated
from corank.models.named_axes import Axes, AxisNames, name_axes, number
from corank.models.settings.mlp import LayerSettings
from corank_lab.models.mlp import ExpertSettings


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


class ExpertLayers(nn.Module):
    """Layers of several experts: the shared ones', (s, b, a), or each label's own, (L, o, b, a)."""

    def __init__(self, settings: LayerSettings, axes: Axes, inputs: int, width: int) -> None:
        """`axes` name the experts: their number, or labels and the number."""
        super().__init__()
        self.activation, self.dropout = settings.activation, settings.dropout
        bound = 1 / math.sqrt(inputs)
        count = [len(names or ()) for names in axes]
        self.weight = nn.Parameter(torch.empty(*count, width, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*count, width).uniform_(-bound, bound))
        name_axes(self, weight=(*axes, None, None), bias=(*axes, None))

    def forward(self, x: Tensor) -> Tensor:
        """(N, a) → (N, s, b) or (N, L, o, b); what each label reads, (N, L, a), → (N, L, o, b)."""
        if x.dim() == 2:
            outputs = activated(x, self.weight.flatten(0, -2), self.bias.flatten(), self.activation)
            outputs = outputs.view(-1, *self.bias.shape)
        else:
            outputs = ACTIVATIONS[self.activation](_products(x, self.weight) + self.bias.to(x.dtype))
        return functional.dropout(outputs, self.dropout, self.training)


class ExpertGates(nn.Module):
    """Shares of experts, which add up to 1 and are even at first: (e, a), or those of each label, (L, e, a)."""

    def __init__(self, axes: Axes, inputs: int) -> None:
        """`axes` name the experts, or labels and experts."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*(len(names or ()) for names in axes), inputs))
        name_axes(self, weight=(*axes, None))

    def forward(self, x: Tensor) -> Tensor:
        """(N, a) → (N, e) or (N, L, e); what each label reads, (N, L, a), → (N, L, e)."""
        return torch.softmax(_products(x, self.weight).float(), -1).to(x.dtype)


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ: (N, a) with (…, a) → (N, …), and label by label (N, L, a) with (L, …, a) → (N, L, …)."""
    weight = weight.to(x.dtype)
    if x.dim() == 2:
        products = functional.linear(x, weight.flatten(0, -2))
    else:
        products = torch.einsum("nla,lca->nlc", x, weight.flatten(1, -2))
    return products.view(-1, *weight.shape[:-1])


class ExpertLevel(nn.Module):
    """Experts side by side, and their mixtures: one a label, and unless it is the last level one for the next."""

    def __init__(self, settings: LayerSettings, experts: ExpertSettings, inputs: int, last: bool) -> None:
        super().__init__()
        labels, width = tuple(settings.labels), experts.width
        shared, own = number("shared expert", experts.shared), number("own expert", experts.own)
        self.shared = ExpertLayers(settings, (shared,), inputs, width)
        self.own = ExpertLayers(settings, (labels, own), inputs, width) if own else None
        self.gates = ExpertGates((labels, (*shared, *own)), inputs)
        every = (*shared, *(f"{label} {name}" for label in labels for name in own))
        self.shared_gate = None if last else ExpertGates((every,), inputs)

    def forward(self, shared: Tensor, of_label: Tensor) -> tuple[Tensor | None, Tensor]:
        """What shared experts and each label read, (N, a) and (N, L, a) or (N, a) → the same of above, (N, L, b)."""
        experts, gates = self.shared(shared), self.gates(of_label)
        count = experts.shape[1]
        mixed = torch.einsum("nls,nsb->nlb", gates[..., :count], experts)
        if self.own is not None:
            own = self.own(of_label)
            mixed = mixed + torch.einsum("nlo,nlob->nlb", gates[..., count:], own)
            experts = torch.cat((experts, own.flatten(1, 2)), 1)
        if self.shared_gate is None:
            return None, mixed
        return torch.einsum("ne,neb->nb", self.shared_gate(shared), experts), mixed


class ExpertHeads(nn.Module):
    """Logits of labels, each of its own mixture of experts and of inputs that all share."""

    def __init__(
        self, settings: LayerSettings, experts: ExpertSettings, below: int, beside: AxisNames
    ) -> None:
        """
        Args:
            settings: of the network, which name its labels.
            experts: of its experts.
            below: width of the hidden layer below the experts.
            beside: the names of the shared inputs.
        """
        super().__init__()
        labels, width = tuple(settings.labels), experts.width
        self.levels = nn.ModuleList(
            ExpertLevel(settings, experts, inputs, last=n == experts.levels)
            for n, inputs in enumerate([below, *[width] * (experts.levels - 1)], 1)
        )
        read = (*number(f"mixture of experts of {width}", width), *beside)
        bound = 1 / math.sqrt(len(read))
        self.weight = nn.Parameter(torch.empty(len(labels), len(read)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(labels)).uniform_(-bound, bound))
        name_axes(self, weight=(labels, read), bias=(labels,))

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """(N, a), (N, w) → (N, L)."""
        shared, mixed = x, x
        for level in self.levels:
            shared, mixed = level(shared, mixed)
        weight, width = self.weight.to(x.dtype), mixed.shape[2]
        logits = (mixed * weight[:, :width]).sum(2)
        if beside is not None:
            logits = logits + functional.linear(beside, weight[:, width:])
        return logits + self.bias.to(x.dtype)
