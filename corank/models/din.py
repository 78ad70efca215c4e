"""Attention over a history: what a user did counts by how much it has to do with the candidate.

Letters: H distinct items of histories · E events, of each request · P pairs of a candidate and an event of its request
· I distinct items · C candidates · n candidates and L events of one request · w width of an item's attended features.
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from corank.batches.batch import AttendedEvents, Batch, Csr
from corank.core.settings import Settings
from corank.models.embedding import gather, sum_rows
from corank.models.layers import ACTIVATIONS, linear


class DinSettings(Settings):
    """Attention over the items of a history."""

    history: str
    attributes: list[str] = []
    """Features of the items that take part beside their id, such as the brand."""
    hidden: PositiveInt = 36
    """Width of the layer that weighs an event for a candidate."""


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor, back: Csr) -> Tensor:
        ctx.back = back
        return gather(x, row)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return sum_rows(gradient.contiguous(), ctx.back), None, None


_gathered: Callable[..., Tensor] = _Gathered.apply


def gathered(x: Tensor, row: Tensor, back: Csr) -> Tensor:
    """x[row], whose gradient is summed by `back`, in its fixed order."""
    return _gathered(x, row, back)


class _Weighted(torch.autograd.Function):
    """For each candidate Σ weight · event over its pairs: (P,), (E, w) → (C, w)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, event: Tensor, past: AttendedEvents) -> Tensor:
        ctx.save_for_backward(weight, event)
        ctx.past = past
        return sum_rows(event, Csr(past.slot, past.candidates.start, weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (weight, event), past = ctx.saved_tensors, ctx.past
        gradient = gradient.contiguous()
        by_pair = gather(gradient, past.candidate)
        of_weight = torch.linalg.vecdot(by_pair, gather(event, past.slot))
        order = past.slots.row
        by_slot = Csr(past.candidate.index_select(0, order), past.slots.start, weight.index_select(0, order))
        return of_weight, sum_rows(gradient, by_slot), None


_weighted: Callable[..., Tensor] = _Weighted.apply


class Din(nn.Module):
    """Σ_e a(e, t) e over the events e of the request, with a(e, t) = u · f(W_t t + W_e e + W_p (t ∘ e) + b) + c.

    t and e are the embeddings of the candidate's item and of an event's, by the same features; a is not normalised.
    Source: Deep Interest Network, Zhou et al., KDD 2018 (arXiv 1706.06978), whose t − e is within W_t and W_e.
    """

    def __init__(self, settings: DinSettings, width: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.target = nn.Linear(width, settings.hidden)
        self.event = nn.Linear(width, settings.hidden, bias=False)
        self.product = nn.Linear(width, settings.hidden, bias=False)
        self.weight = nn.Linear(settings.hidden, 1)

    def forward(self, target: Tensor, event: Tensor, batch: Batch, past: AttendedEvents) -> Tensor:
        """(padded I, w), (padded H, w) → (C, w), in fp32."""
        of_candidate = gathered(
            torch.cat((linear(target, self.target), target), 1), batch.item_of, batch.items
        )
        of_event = gathered(torch.cat((linear(event, self.event), event), 1), past.event, past.events)
        left = gathered(of_candidate, past.candidate, past.candidates)
        right = gathered(of_event, past.slot, past.slots)
        hidden = self.weight.in_features
        a = self._weight(left[:, :hidden] + right[:, :hidden], left[:, hidden:] * right[:, hidden:])
        return _weighted(a.float(), of_event[:, hidden:].float().contiguous(), past)

    def dense(self, target: Tensor, event: Tensor, mask: Tensor) -> Tensor:
        """The same of one request, in a graph: (n, w), (L, w), (L,) → (n, w)."""
        first = self.target(target).unsqueeze(1) + self.event(event)
        a = self._weight(first, target.unsqueeze(1) * event)
        return (a * mask) @ event

    def _weight(self, first: Tensor, product: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.activation](first + linear(product, self.product))
        return linear(hidden, self.weight).squeeze(-1)
