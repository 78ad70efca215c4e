"""The events of histories that a stage attends to: those of a batch's requests, or of the request of an exported graph.

Letters: I distinct items · C candidates · H distinct items of histories · E events, of each request · P pairs of a
candidate and an event of its request · w width. I', C', H' and E' are these rounded up
(`corank.batches.batch.padded`); rows beyond belong to no candidate and no event. In a graph: n candidates and L events
of one request.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corank.batches.batch import AttendedEvents, Batch, CandidateSubset, Csr
from corank.models.layers import ACTIVATIONS, Columns, linear
from corank.models.named_axes import AxisNames, name_axes
from corank.models.pairs import gather_rows
from corank.models.settings.mlp import DinSettings
from corank.models.tables.embedding import gather, sum_rows

Weigh = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Parts of targets, parts of events → the weight of each pair; the parts broadcast."""


class AttendedHistory(ABC):
    """The events of a history that a stage attends to, and how they meet the candidates."""

    items: Tensor
    """What is attended to of the events and their items: (H', w) of a batch, (1, L, w) of an exported graph."""

    @abstractmethod
    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Σ weight · event over the events of each candidate's request: (C, w), in fp32 of a batch.

        Args:
            target: by item, parts of any widths: (I', ·) each.
            event: by row of `items`, parts of any widths, the last of which is summed: (H', ·) or (1, L, ·) each.
            weigh: what an event counts for a candidate, from the parts of both: (P, ·), (P, ·) → (P,) of a batch;
                (n, 1, ·), (1, L, ·) → (n, L) of an exported graph.
        """


class BatchHistory(AttendedHistory):
    """The events of a batch's requests."""

    def __init__(self, items: Tensor, past: AttendedEvents, batch: Batch | CandidateSubset) -> None:
        self.items, self.past, self.batch = items, past, batch

    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Weigh the pairs of candidates and events, and sum by candidate."""
        past, batch = self.past, self.batch
        # gathered side by side: one pass over the indices, and one sum of gradients
        of_candidate = gather_rows(torch.cat(tuple(target), 1), batch.item_of, batch.items)
        of_event = self.by_event(torch.cat(tuple(event), 1))
        left = gather_rows(of_candidate, past.candidate, past.candidates)
        right = gather_rows(of_event, past.slot, past.slots)
        weight = weigh(
            torch.split(left, [part.shape[1] for part in target], 1),
            torch.split(right, [part.shape[1] for part in event], 1),
        )
        summed = of_event[:, of_event.shape[1] - event[-1].shape[1] :]
        return _weighted_sum(weight.float(), summed.float().contiguous(), past)

    def by_event(self, rows: Tensor) -> Tensor:
        """Bring what is by row of `items` to the events: (H', ·) → (E, ·)."""
        return gather_rows(rows, self.past.event, self.past.events)


@dataclass(frozen=True)
class GraphHistory(AttendedHistory):
    """The events of an exported graph, which scores the n candidates of one request."""

    items: Tensor
    mask: Tensor
    """1 for an event, 0 for a row that stands in for one or fills up: (1, L)."""
    ages: Tensor | None = None
    """Of the events: (1, L)."""

    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Weigh each candidate with each event."""
        return self.sum(weigh([part.unsqueeze(1) for part in target], event), event[-1])

    def sum(self, weight: Tensor, event: Tensor) -> Tensor:
        """Sum the weighted events of each candidate: (n, L), (1, L, w) → (n, w)."""
        return (weight * self.mask) @ event.squeeze(0)


class _WeightedSum(torch.autograd.Function):
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


_weighted_sum: Callable[..., Tensor] = _WeightedSum.apply


class Din(nn.Module):
    """Σ_e a(e, t) e over the events e of the request, with a(e, t) = u · f(W_t t + W_e e + W_p (t ∘ e) + b) + c.

    t and e are the embeddings of the candidate's item and of an event's, by the same features; a is not normalised.
    What only events have, such as the dwell, is appended to e, and left out of t ∘ e.
    Source: Deep Interest Network, Zhou et al., KDD 2018 (arXiv 1706.06978), whose t − e is within W_t and W_e.
    """

    def __init__(
        self,
        settings: DinSettings,
        items: AxisNames,
        activation: str,
        of_events: AxisNames = (),
    ) -> None:
        """
        Args:
            settings: of the attention.
            items: the names of an item's attended columns: (w,).
            activation: of the hidden layer.
            of_events: the names of the columns that only events have: (v − w,).
        """
        super().__init__()
        self.activation = activation
        events = (*items, *of_events)
        self.target = name_axes(nn.Linear(len(items), settings.hidden), weight=(None, items))
        self.event = name_axes(nn.Linear(len(events), settings.hidden, bias=False), weight=(None, events))
        self.product = name_axes(nn.Linear(len(items), settings.hidden, bias=False), weight=(None, items))
        self.weight = nn.Linear(settings.hidden, 1)

    def forward(self, target: Tensor, history: AttendedHistory, order: Columns | None = None) -> Tensor:
        """Attend from each candidate: targets (I', w) and events (H', v), or (1, L, v) of a graph → (C, v).

        `order` brings the columns of events in order: those that items have, too, then their own.
        """
        event = history.items if order is None else order(history.items)
        if isinstance(history, GraphHistory):
            return history.sum(self._weigh_all(target, event.squeeze(0)), event)
        return history.attend(
            (linear(target, self.target), target), (linear(event, self.event), event), self._weigh
        )

    def _weigh(self, target: Sequence[Tensor], event: Sequence[Tensor]) -> Tensor:
        """a(e, t), from (W_t t + b, t) and (W_e e, e)."""
        first, product = target[0] + event[0], target[1] * event[1][..., : target[1].shape[-1]]
        hidden = ACTIVATIONS[self.activation](first + linear(product, self.product))
        return linear(hidden, self.weight).squeeze(-1)

    def _weigh_all(self, target: Tensor, event: Tensor) -> Tensor:
        """a(e, t) of all pairs, in less time, in an exported graph: (n, w), (L, v) → (n, L).

        W_t t + W_p (t ∘ e) is the product of a matrix that each event has, W_t + W_p diag(e), with t: nothing but
        hidden units is made for each pair.
        """
        shared = event[:, : target.shape[1]].unsqueeze(1)
        of_event = (self.target.weight + self.product.weight * shared).flatten(0, 1)
        alone = (self.event(event) + self.target.bias).flatten().unsqueeze(1)
        units = ACTIVATIONS[self.activation](torch.addmm(alone, of_event, target.t()))
        weight: Tensor = self.weight.weight @ units.unflatten(0, (event.shape[0], -1))
        return weight.squeeze(1).t() + self.weight.bias
