"""The parts of a network that are exported: modules over the tensors of one request.

Letters: n candidates · N items · L events of a history · w width of an item's attended features · d width of vectors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corank.models.histories.attended import SingleRequestHistory
from corank.models.pairs import RequestPairs
from corank.models.stage_io import StageInputs, StageOutput

REQUEST_TENSORS = ("query", "item", "snapshot", "cross", "event", "mask", "ages", "earlier")
"""One request's tensors: query (1, ·), item, snapshot and cross (n, ·), what is attended to event (L, w), mask (L,) and
ages (L,), what is seen of earlier stages (n, ·)."""
PART = "part."
"""Begins the name by which a graph reads the candidates' rows of an item part: `part.vector` is (n, d)."""
MATCHES = "matches"
"""What matches add to logits, which the scorer counts: (n,)."""


@dataclass(frozen=True)
class Graph:
    """A part of a network to be exported."""

    module: nn.Module
    """Takes its inputs by name, and returns one tensor an output."""
    inputs: tuple[str, ...]
    """Of REQUEST_TENSORS; those that the config has no use for are left out. `PartsGraph` may also read parts and
    matches."""
    outputs: tuple[str, ...]


class RequestGraph(nn.Module):
    """The forward of a stage over one request → logits (n, labels)."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(
        self,
        query: Tensor,
        item: Tensor,
        snapshot: Tensor | None = None,
        cross: Tensor | None = None,
        event: Tensor | None = None,
        mask: Tensor | None = None,
        ages: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> Tensor:
        """Score the candidates of one request: (n, labels)."""
        count = item.shape[0]
        snapshot = item.new_zeros(count, 0) if snapshot is None else snapshot
        cross = item.new_zeros(count, 0) if cross is None else cross
        history = SingleRequestHistory(event, mask, ages) if event is not None and mask is not None else None
        output: StageOutput = self.stage(
            StageInputs(query, item, snapshot, cross, RequestPairs(count), history, earlier)
        )
        return torch.stack(list(output.logits.values()), dim=1)


class QueryGraph(nn.Module):
    """What a stage computes of the query alone: (1, ·) → (1, d)."""

    def __init__(self, stage: nn.Module, compute: Callable[[Tensor], Tensor]) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, query: Tensor) -> Tensor:
        """(1, ·) → (1, d)."""
        return self._compute(query)


class ItemGraph(nn.Module):
    """What a stage computes of items alone, rows and snapshots: (N, ·), (N, ·) → (N, d), or several such."""

    def __init__(
        self, stage: nn.Module, compute: Callable[[Tensor, Tensor | None], Tensor | tuple[Tensor, ...]]
    ) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, item: Tensor, snapshot: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """(N, ·), (N, ·) → (N, d), one for each part."""
        return self._compute(item, snapshot)


class PartsGraph(nn.Module):
    """What a stage computes of one request's candidates from their item parts → logits (n, labels)."""

    def __init__(self, stage: nn.Module, compute: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """`compute` is a method of `stage`, which holds the weights."""
        super().__init__()
        self.stage, self._compute = stage, compute

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """The query (1, ·), parts (n, ·) and what else the graph names → (n, labels)."""
        return self._compute(given)
