"""Events in the order of their requests: those of a batch, or of one request in an exported graph.

Letters: R requests · E events, E' rounded up · B requests, of which one has L events at most · w width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from corank.batches.batch import AttendedEvents


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


class SingleSequence(EventSequences):
    """The events of one request."""

    def __init__(self, count: int, ages: Tensor | None) -> None:
        self.place, self.ages = count - 1 - torch.arange(count), ages

    def stack(self, x: Tensor) -> Tensor:
        """They are in order: (L, w) → (1, L, w)."""
        return x.unsqueeze(0)

    def unstack(self, x: Tensor) -> Tensor:
        """(1, L, w) → (L, w)."""
        return x.squeeze(0)
