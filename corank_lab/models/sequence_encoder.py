"""A causal encoder of a request's events, which runs once a request, whatever the number of its candidates.

Letters: R requests · H' distinct items of histories, rounded up · E' events, rounded up · B requests, of which one has
L events at most · w width · v width of an event · h heads · d width of a head · K knots · C candidates.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad

from corank.batches.batch import AttendedEvents
from corank.models.attention import AttendedHistory, BatchHistory, Din, GraphHistory
from corank.models.layers import Columns, linear
from corank.models.named_axes import AxisNames, name_axes, number
from corank_lab.models.mlp import EncodedDinSettings, SequenceEncoderSettings

OCTAVES = 2
"""Of the seconds of an age, between two knots."""
KNOTS = 14
"""The last is at two years."""


class EventSequences(ABC):
    """Which events are one request's, and in which order; what runs by event alone needs none of it."""

    place: Tensor
    """How many events of its request are newer than an event: (E',) int64."""
    ages: Tensor | None
    """log2(1 + s) of an event that is s seconds older than its request, if they are read: (E',)."""

    @abstractmethod
    def stack(self, x: Tensor) -> Tensor:
        """Lay the events of each request in a line, the oldest first, zeros behind the newest: (E', w) → (B, L, w)."""

    @abstractmethod
    def unstack(self, x: Tensor) -> Tensor:
        """Bring them back: (B, L, w) → (E', w)."""


class BatchSequences(EventSequences):
    """The events of a batch's requests."""

    def __init__(self, past: AttendedEvents, requests: int) -> None:
        self.place, self.ages, self._at = past.place, past.ages, past.at
        self._shape = (requests, past.longest)
        self._empty = len(past.place) - len(past.at)

    def stack(self, x: Tensor) -> Tensor:
        """Copy each event to its place: no two share one, so gradients are not summed."""
        requests, longest = self._shape
        lines = x.new_zeros(requests * longest, x.shape[1]).index_copy(0, self._at, x[: len(self._at)])
        return lines.view(requests, longest, x.shape[1])

    def unstack(self, x: Tensor) -> Tensor:
        """Copy each event back, and fill up to E' rows."""
        return pad(x.flatten(0, 1).index_select(0, self._at), (0, 0, 0, self._empty))


class FilledSequences(EventSequences):
    """The events of the requests of an exported graph, filled up behind the newest."""

    def __init__(self, history: GraphHistory) -> None:
        mask = history.mask
        newer = mask.sum(1, keepdim=True).long() - 1 - torch.arange(mask.shape[1])
        self.place = newer.clamp(min=0).flatten()
        self.ages = None if history.ages is None else history.ages.flatten()
        self._requests = mask.shape[0]

    def stack(self, x: Tensor) -> Tensor:
        """They are in order: (R · L, w) → (R, L, w)."""
        return x.view(self._requests, -1, x.shape[1])

    def unstack(self, x: Tensor) -> Tensor:
        """(R, L, w) → (R · L, w)."""
        return x.flatten(0, 1)


class SequenceEncoder(nn.Module):
    """Events in the light of those before them: layers of `HstuLayer` over e + p(place) + a(age).

    p is a vector for each place, counted from the newest, and a is linear in log2(1 + s) between knots, with s the
    event's age in seconds at the request. An event keeps its width and, before the layers have learnt, its values.
    """

    def __init__(
        self, settings: SequenceEncoderSettings, events: AxisNames, last: int, dropout: float
    ) -> None:
        """
        Args:
            settings: of the encoder.
            events: the names of an event's columns: (v,).
            last: events of a history, at most.
            dropout: share of each layer's gated sums that a training step leaves out.
        """
        super().__init__()
        self.place = nn.Parameter(torch.zeros(last, len(events)))
        name_axes(self, place=(number("events since", last), events))
        self.age = (
            name_axes(nn.Linear(KNOTS, len(events), bias=False), weight=(events, number("age", KNOTS)))
            if settings.ages
            else None
        )
        if self.age is not None:
            nn.init.zeros_(self.age.weight)
        self.layers = nn.ModuleList(
            HstuLayer(events, settings.heads, settings.dim, last, dropout) for _ in range(settings.layers)
        )

    def forward(self, x: Tensor, sequences: EventSequences) -> Tensor:
        """Encode the events of all requests: (E', v) → (E', v)."""
        # not by an index, whose gradient adds up in no fixed order
        x = x + functional.embedding(sequences.place, self.place).to(x.dtype)
        if self.age is not None and sequences.ages is not None:
            knots = torch.arange(KNOTS, dtype=torch.float32, device=x.device)
            at = (sequences.ages / OCTAVES).clamp(max=KNOTS - 1).unsqueeze(1)
            x = x + linear(functional.relu(1 - (at - knots).abs()), self.age).to(x.dtype)
        for layer in self.layers:
            x = layer(x, sequences)
        return x


class HstuLayer(nn.Module):
    """x + f₂(norm(A V) ∘ U) with U, Q, K, V = silu(f₁(norm(x))) and A = silu(Q Kᵀ + b), of each event and those before.

    b is a number for each distance of two events and each head. A is not divided by the number of events, since the
    norm that follows takes any factor away.
    Source: the hierarchical sequential transduction unit of Zhai et al., Actions Speak Louder than Words, ICML 2024
    (arXiv 2402.17152), whose b also depends on the time between two events; here their ages enter before the layers.
    """

    def __init__(self, events: AxisNames, heads: int, dim: int, last: int, dropout: float) -> None:
        """Args: as in `SequenceEncoder`; `heads` of width `dim`."""
        super().__init__()
        self.heads, self.width, self.dropout = heads, heads * dim, dropout
        self.norm = name_axes(nn.LayerNorm(len(events)), weight=(events,), bias=(events,))
        self.inputs = name_axes(nn.Linear(len(events), 4 * self.width), weight=(None, events))
        self.distance = nn.Parameter(torch.zeros(last, heads))
        name_axes(self, distance=(number("events between", last), None))
        self.summed = nn.LayerNorm(self.width)
        self.output = name_axes(nn.Linear(self.width, len(events)), weight=(events, None), bias=(events,))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor, sequences: EventSequences) -> Tensor:
        """(E', v) → (E', v)."""
        read = functional.silu(linear(_normalise(x, self.norm), self.inputs))
        gate, *_ = parts = read.split((self.width, 3 * self.width), 1)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in sequences.stack(parts[1]).chunk(3, 2)
        )
        summed = (self._weights(query, key) @ value).transpose(1, 2).flatten(2)
        gated = _normalise(sequences.unstack(summed), self.summed) * gate
        return x + linear(functional.dropout(gated, self.dropout, self.training), self.output)

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        """What each event counts for each event, 0 for those after it: (B, h, L, d) twice → (B, h, L, L)."""
        # zeros that fill up a shorter request lie behind its events, where none of them looks
        at = torch.arange(query.shape[2], device=query.device)
        between = at.unsqueeze(1) - at
        bias = functional.embedding(between.clamp(0, len(self.distance) - 1), self.distance)
        scores = query @ key.transpose(2, 3) + bias.permute(2, 0, 1).to(query.dtype)
        return functional.silu(scores) * (between >= 0).to(query.dtype)


def _normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise in fp32."""
    normalised: Tensor = norm(x.float())
    return normalised.to(x.dtype)


class EncodedHistory(BatchHistory):
    """The encoded events of a batch's requests; `items` has a row for each: (E, v)."""

    def by_event(self, rows: Tensor) -> Tensor:
        """They are by event."""
        return rows


def encode(history: AttendedHistory, rows: Tensor, encoder: SequenceEncoder) -> AttendedHistory:
    """Encode each event of each request in its order, from rows as in `history.items`: (H', v), or (R, L, v)."""
    if isinstance(history, GraphHistory):
        encoded = encoder(rows.flatten(0, 1), FilledSequences(history))
        return replace(history, items=encoded.unflatten(0, (rows.shape[0], -1)))
    assert isinstance(history, BatchHistory)
    past, count = history.past, len(history.past.event)
    # in shapes that repeat
    events = pad(history.by_event(rows), (0, 0, 0, len(past.place) - count))
    encoded = encoder(events, BatchSequences(past, len(history.batch.draws)))
    return EncodedHistory(encoded[:count], past, history.batch)


class EncodedDin(Din):
    """Attention to events in the light of those before them."""

    def __init__(
        self,
        settings: EncodedDinSettings,
        items: AxisNames,
        activation: str,
        of_events: AxisNames,
        encoder: SequenceEncoder,
    ) -> None:
        """`encoder` is of the events; else as `Din`."""
        super().__init__(settings, items, activation, of_events)
        self.encoder = encoder

    def forward(self, target: Tensor, history: AttendedHistory, order: Columns | None = None) -> Tensor:
        """As `Din.forward`."""
        events = history.items if order is None else order(history.items)
        return super().forward(target, encode(history, events, self.encoder))
