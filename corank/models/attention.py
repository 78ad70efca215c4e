"""The events of histories that a stage attends to: those of a batch's requests, or of requests in an exported graph.

Letters: R requests · I distinct items · C, n candidates · H distinct items of histories · L events of each request,
filled up
· E events, of each request · P pairs of a candidate and an event of its request · w width · S slots
for the candidates of each request. I', C', H' and E' are
these rounded up (`corank.batches.batch.padded`); rows beyond belong to no candidate and no event.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    """What is attended to of the events and their items: (H', w) of a batch, (R, L, w) of an exported graph."""

    @abstractmethod
    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Σ weight · event over the events of each candidate's request: (C, w), in fp32 of a batch.

        Args:
            target: by item, parts of any widths: (I', ·) each.
            event: by row of `items`, parts of any widths, the last of which is summed: (H', ·) or (R, L, ·) each.
            weigh: what an event counts for a candidate, from the parts of both: (P, ·), (P, ·) → (P,) of a batch;
                (R, S, 1, ·), (R, 1, L, ·) → (R, S, L) of an exported graph.
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
class FilledHistory(AttendedHistory):
    """The events of R requests in an exported graph, filled up to L; their candidates are filled up to S slots."""

    items: Tensor
    mask: Tensor
    """1 for an event, 0 for a row that fills up: (R, L)."""
    slots: Tensor
    """The candidate in each slot of each request, any in those that fill up: (R, S) int64."""
    slot_of: Tensor
    """The slot of each candidate, counted over all requests: (n,) int64."""
    ages: Tensor | None = None
    """Of the events: (R, L)."""

    def attend(self, target: Sequence[Tensor], event: Sequence[Tensor], weigh: Weigh) -> Tensor:
        """Weigh each slot of each request with each of its events."""
        weight = weigh(
            [self.spread(part).unsqueeze(2) for part in target], [part.unsqueeze(1) for part in event]
        )
        return self.sum(weight, event[-1])

    def spread(self, x: Tensor) -> Tensor:
        """Bring what candidates have to the slots: (n, ·) → (R, S, ·)."""
        requests, slots = self.slots.shape
        return x.index_select(0, self.slots.flatten()).view(requests, slots, x.shape[1])

    def sum(self, weight: Tensor, event: Tensor) -> Tensor:
        """Sum the weighted events of each candidate: (R, S, L), (R, L, w) → (n, w)."""
        summed = (weight * self.mask.unsqueeze(1)) @ event
        return summed.flatten(0, 1).index_select(0, self.slot_of)


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
        """Attend from each candidate: targets (I', w) and events (H', v), or (R, L, v) of a graph → (C, v).

        `order` brings the columns of events in order: those that items have, too, then their own.
        """
        event = history.items if order is None else order(history.items)
        if isinstance(history, FilledHistory):
            return history.sum(self._weigh_slots(history.spread(target), event), event)
        return history.attend(
            (linear(target, self.target), target), (linear(event, self.event), event), self._weigh
        )

    def _weigh(self, target: Sequence[Tensor], event: Sequence[Tensor]) -> Tensor:
        """a(e, t), from (W_t t + b, t) and (W_e e, e)."""
        first, product = target[0] + event[0], target[1] * event[1][..., : target[1].shape[-1]]
        hidden = ACTIVATIONS[self.activation](first + linear(product, self.product))
        return linear(hidden, self.weight).squeeze(-1)

    def _weigh_slots(self, target: Tensor, event: Tensor) -> Tensor:
        """a(e, t) in an exported graph, in less time: (R, S, w), (R, L, v) → (R, S, L).

        W_t t + W_p (t ∘ e) + W_e e is one product of a matrix that each event has, W_t + W_p diag(e) and a column more,
        with (t, 1): nothing but hidden units is made for each pair.
        """
        shared = event[:, :, : target.shape[2]].unsqueeze(2)
        of_event = self.target.weight + self.product.weight * shared
        alone = self.event(event) + self.target.bias
        of_event = torch.cat((of_event, alone.unsqueeze(3)), 3)
        with_one = functional.pad(target, (0, 1), value=1.0)
        units = (of_event.flatten(1, 2) @ with_one.transpose(1, 2)).unflatten(1, (event.shape[1], -1))
        weight = (self.weight.weight @ ACTIVATIONS[self.activation](units)).squeeze(2)
        return weight.transpose(1, 2) + self.weight.bias.squeeze(0)
