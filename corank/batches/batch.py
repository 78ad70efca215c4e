"""A batch: whole requests, each query and each distinct item once, with all indices that the model needs.

Letters: R requests · C candidates · I distinct items · B bags · V table rows read · U distinct table rows
· H distinct items of histories · E events, of each request · P pairs of a candidate and an event of its request.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from corank.batches.sampling import Population
from corank.distributed.ranks import Ranks
from corank.features.input_layout import Attended
from corank.features.schema import Placement


@dataclass(frozen=True)
class Csr:
    """B sums of rows of some matrix: output b = Σ weight[j]·matrix[row[j]], start[b] ≤ j < start[b+1]."""

    row: Tensor  # (V,) int32
    start: Tensor | None  # (B + 1,) int32; None where every output is one row
    weight: Tensor | None  # (V,) float32


@dataclass(frozen=True)
class TableLookup:
    """All reads of one embedding table by a batch, and how their gradients return to the table's rows."""

    reads: dict[Placement | Attended, Csr]
    touched: Tensor
    """Distinct table rows read, ascending: (U,) int32."""
    back: Csr
    """Sums, by touched row, the gradients of all bags, stacked in the order of `reads`."""
    owned: tuple[int, ...] = ()
    """How many of the touched rows each rank owns, if the table is sharded: then `touched` are rows of their shards, in
    the order of ranks, and `reads` read not the table but a matrix of the touched rows."""


@dataclass(frozen=True)
class AttendedEvents:
    """The events of a history that a stage attends to, and their pairs with the candidates of their requests."""

    event: Tensor  # (E,) int32, the row of its item among the H distinct ones
    events: Csr
    """Events summed by distinct item, `padded(H)` of them."""
    candidate: Tensor  # (P,) int32, ascending
    slot: Tensor  # (P,) int32, the event of each pair
    candidates: Csr
    """Pairs summed by candidate: (C)."""
    slots: Csr
    """Pairs summed by event: (E)."""
    at: Tensor
    """Where each event is if every request has `longest` places, its events in the first of them: (E,) int64."""
    longest: int
    """Events of a request, at most, rounded up."""
    place: Tensor
    """How many events of its request are newer: (E',) int64, E' being `padded(E)`."""
    ages: Tensor | None = None
    """log2(1 + s) of an event that is s seconds older than its request: (E',) float32; None if nobody reads it."""


@dataclass(frozen=True)
class Batch:
    """Tensors of whole requests, on one device."""

    lookups: dict[int, TableLookup]
    """By table dimension."""
    numbers: dict[Placement, Tensor]
    vectors: dict[Placement | Attended, tuple[Tensor, ...]]
    """Vector features, (N, d + 1) float16 each: zeros, and in the last column 1, where one is missing."""
    draws: Tensor
    """The state from which losses draw for each request, in this epoch (`corank.batches.draws`): (R,) int64."""
    request_of: Tensor  # (C,) int32, ascending
    requests: Csr
    """Candidates summed by request."""
    item_of: Tensor  # (C,) int32
    item_row: Tensor
    """The row of `PackedDataset.items` of each of the batch's items, ascending: (I,) int32."""
    ordinal: Tensor
    """The item of each item row, as an index into the distinct items of the packed data; ascending: (I,) int32.

    Rows of one item, as it was at several times, have one ordinal."""
    items: Csr
    """Candidates summed by distinct item, `padded(I)` of them."""
    share: Tensor
    """Each item's share of the log's candidates, at the levels that are read: (I,) float32."""
    pairs: Csr
    """For each candidate the rows of its request and its item, in a stack of R and `padded(I)`; `padded(C)` of them."""
    level: Tensor  # (C,) uint8, or the source of a negative beyond the log
    exposed: int
    """The deepest level."""
    weight: Tensor  # (C,) float32
    labels: dict[str, Tensor]
    """(C,) float32: 0, 1, or -1 where unknown."""
    scores: dict[str, Tensor]
    """Logged scores as logits, NaN where unknown: (C,) float32."""
    draw_order: Tensor | None
    """Position in the drawn order of its request and level, (C,) int32; None if all candidates are read."""
    position: Tensor | None = None
    """Position on the page, -1 where unknown: (C,) int64; None if the log does not have it."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """Columns of the log or of items that a stage's value may name: (C,) float32."""
    represents: Tensor | None = None
    """How many of the log's candidates, of its request and level, each one represents: (C,) float32; None: one."""
    earliest: Tensor | None = None
    """The candidate of each item row's earliest request, whose snapshot features stand for the item where no request is
    given: (I,) int32; None if there are no such features."""
    earliest_time: Tensor | None = None
    """The time of that request, ms UTC: (I,) int64."""
    histories: dict[Attended, AttendedEvents] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    """Who has the other parts of the batch: each rank has some of its requests."""

    def __len__(self) -> int:
        return len(self.request_of)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device."""
        moved: Batch = _to_device(self, device)
        return moved

    def label_weight(self, label: str) -> Tensor:
        """Return the weight of exposed candidates whose label is known, 0 for others: (C,)."""
        return self.weight * (self.labels[label] >= 0) * (self.level == self.exposed)

    def in_population(self, population: Population) -> Tensor:
        """Mark the candidates of a population: (C,) bool."""
        here = torch.zeros_like(self.level, dtype=torch.bool)
        for level, count in population.items():
            of_level = self.level == level
            here |= (
                of_level if count is None or self.draw_order is None else of_level & (self.draw_order < count)
            )
        return here


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _to_device(part, device) for key, part in value.items()}
    if isinstance(value, Ranks):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _to_device(getattr(value, f.name), device) for f in fields(value)})
    return value
