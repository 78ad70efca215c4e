"""A batch: whole requests, each query and each distinct item once, with all indices that the model needs.

Shapes are rounded up, so that they repeat: see `padded`. A network may run on some of a batch's candidates alone.

Letters: R requests · C candidates · I distinct items · B bags · V table rows read · U distinct table rows
· H distinct items of histories · E events, of each request · P pairs of a candidate and an event of its request.
· C', E', K' the same, rounded up · K candidates that are chosen.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property, reduce
from operator import or_
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from corank.batches.sampling import FIRST_CODE, Population
from corank.core.ordering import stable_order
from corank.core.types import Ints
from corank.distributed.ranks import Ranks
from corank.features.encoding import Placement
from corank.features.input_layout import Attended, Bags

T = TypeVar("T")


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
    """Tensors of whole requests, on the device of the model. A loss gets it in `values`.

    `len(batch)` is C. `outputs[STAGE].logits[LABEL]` is (C,) float32 in the order of `request_of`; candidates that no
    loss of a stage reads may have a logit of 0.

    Letters: R requests · C candidates, of the log or drawn beyond it · I distinct item rows · C', I' the same, rounded
    up by 1/16 at most, so that shapes repeat · w columns.

    Example:
        mask = batch.in_population({batch.exposed: None})
        clicked = mask & (batch.labels["click"] == 1)
        loss = softplus(-outputs["rank"].logits["click"])
        return loss, batch.weight * clicked
    """

    lookups: dict[int, TableLookup]
    """Reads of embedding tables, by dimension; for models."""
    numbers: dict[Placement, Tensor]
    """Scaled numbers, float32: `query` of requests (R, w), `item` of item rows (I, w), `snapshot` of the candidates'
    items at a snapshot before the request (C, w), `cross` of the pairs (C, w)."""
    vectors: dict[Placement | Attended, tuple[Tensor, ...]]
    """Vector features, (N, d + 1) float16 each: zeros, and in the last column 1, where one is missing."""
    draws: Tensor
    """The state from which losses draw for each request, in this epoch (`corank.batches.draws`): (R,) int64."""
    request_of: Tensor
    """The request of each candidate, ascending from 0: (C,) int32."""
    requests: Csr
    """Candidates summed by request."""
    item_of: Tensor
    """The item row of each candidate, among I: (C,) int32."""
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
    level: Tensor
    """Position in `data.levels`; from FIRST_CODE on a code of drawn rows, such as 254 for a negative from `batch`:
    (C,) uint8."""
    exposed: int
    """The deepest level."""
    weight: Tensor
    """`data.weight`; 1 without it, and for negatives beyond the log: (C,) float32."""
    labels: dict[str, Tensor]
    """By label: 0, 1, or -1 where unknown: (C,) float32."""
    scores: dict[str, Tensor]
    """By name: logged scores as logits, NaN where unknown: (C,) float32."""
    draw_order: Tensor | None
    """Position in the drawn order of its request and level, from 0: (C,) int32; None if all candidates are read."""
    position: Tensor | None = None
    """Position on the page, -1 where unknown: (C,) int64; None if the log does not have it."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """`data.columns` by name, of the log or of items, NaN where unknown: (C,) float32."""
    represents: Tensor | None = None
    """How many of the log's candidates, of its request and level, each one represents, 0 for a negative beyond the log:
    (C,) float32; None: one each."""
    everywhere: tuple[str, ...] = ()
    """The labels that are known of candidates of all levels."""
    log_rates: dict[str, Tensor] = field(default_factory=dict)
    """By label whose outcomes are drawn, ln of how often users act on the item, against the mean: (C,) float32."""
    earliest: Tensor | None = None
    """The candidate of each item row's earliest request, whose snapshot features stand for the item where no request is
    given: (I,) int32; None if there are no such features."""
    earliest_time: Tensor | None = None
    """The time of that request, ms UTC: (I,) int64."""
    histories: dict[Attended, AttendedEvents] = field(default_factory=dict)
    """Events that a stage attends to; for models."""
    ranks: Ranks = field(default_factory=Ranks)
    """Who has the other parts of the batch: each rank has some of its requests."""

    def __len__(self) -> int:
        return len(self.request_of)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch, and what was made of it `once`, to a device; from pinned memory the host does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), device)

    def pin(self) -> "Batch":
        """The batch in pinned memory, from where a GPU copies it while the host goes on."""
        return self._map(Tensor.pin_memory, None)

    def _map(self, convert: Callable[[Tensor], Tensor], device: torch.device | None) -> "Batch":
        if self.request_of.device == device:
            return self
        moved: Batch = _converted(self, convert)
        moved._made.update(_converted(self._made, convert))
        return moved

    def label_weight(self, label: str) -> Tensor:
        """Return the weight of candidates whose label is known, 0 for others and drawn rows, made once: (C,)."""
        return self.once(
            ("label weight", label),
            lambda: self.weight * (self.labels[label] >= 0) * self._tells(label),
        )

    def _tells(self, label: str) -> Tensor:
        """Where a label may be known: where exposed, or in all rows of levels: (C,) bool."""
        return self.level < FIRST_CODE if label in self.everywhere else self.level == self.exposed

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Make what several networks or losses read of the batch when it is first asked for by a key.

        On the way to a GPU it is made on the host (`Loss.prepare`), and copied with the batch.
        """
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def in_population(self, population: Population) -> Tensor:
        """Mark the candidates of a population, not to be changed in place: (C,) bool."""
        return self.once(("mask", *population.items()), lambda: self._mark(population))

    def _mark(self, population: Population) -> Tensor:
        marks = [
            self.level == level
            if count is None or self.draw_order is None
            else (self.level == level) & (self.draw_order < count)
            for level, count in population.items()
        ]
        return reduce(or_, marks) if marks else torch.zeros_like(self.level, dtype=torch.bool)


def _converted(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """A value with all its tensors converted."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, dict):
        return {key: _converted(part, convert) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [_converted(part, convert) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type | Ranks):
        return type(value)(**{f.name: _converted(getattr(value, f.name), convert) for f in fields(value)})
    return value


def padded(rows: int) -> int:
    """Round a number of rows up, by 1/16 at most.

    oneDNN builds a kernel for every new shape of a product, at .5 ms each. I and C differ from batch to batch, so dense
    inputs are padded with rows of zeros, which belong to no candidate, so that shapes repeat.
    """
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


def csr(bags: Bags) -> Csr:
    """Convert bags of rows to tensors."""
    return Csr(
        torch.from_numpy(bags.row),
        None if bags.start is None else torch.from_numpy(bags.start),
        None if bags.weight is None else torch.from_numpy(bags.weight),
    )


@cache
def sorts_at_once() -> bool:
    """Whether `stable_order` takes less time at once on this processor."""
    return torch.cpu._is_amx_tile_supported()


def group(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Group keys (V,).

    Returns:
        The distinct keys, ascending: (U,); where the positions of each begin, and the end: (U + 1,); the positions, in
        order within each key: (V,).
    """
    order = stable_order(keys, at_once=sorts_at_once())
    key = keys.take(order)
    new = np.ones(len(key), dtype=np.bool_)
    np.not_equal(key[1:], key[:-1], out=new[1:])
    first = np.flatnonzero(new)
    return key[first], np.append(first, len(keys)).astype(np.int32), order.astype(np.int32)


def fill(bags: Bags, count: int) -> Bags:
    """Append empty bags up to `count`."""
    assert bags.start is not None
    return Bags(bags.row, np.pad(bags.start, (0, count - bags.count), mode="edge"), bags.weight, count)


@dataclass(frozen=True)
class CandidateSubset:
    """Indices as those of a `Batch`, of K candidates; rows of queries, items and events are those of the batch."""

    index: Tensor
    """The candidates, ascending: (K,) int32."""
    rows: Csr
    """For each row of the batch's candidates, C' of them, the one of the chosen, if it is."""
    draws: Tensor
    """Those of the batch's requests: (R,)."""
    request_of: Tensor  # (K,) int32
    requests: Csr
    item_of: Tensor  # (K,) int32
    items: Csr
    pairs: Csr
    """For each one the rows of its request and its item, as in a batch; K' of them."""
    histories: dict[Attended, AttendedEvents]
    earliest: None = None
    """The first candidate of an item may not be among them."""

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, batch: Batch, population: Population) -> Self:
        """Choose the candidates of a population, once for all networks that score the same."""
        return batch.once(
            ("subset", *population.items()), lambda: cls._of(batch, batch.in_population(population))
        )

    @classmethod
    def _of(cls, batch: Batch, chosen: Tensor) -> Self:
        """Choose candidates: (C,) bool."""
        number = _before(chosen)
        index = torch.nonzero(chosen).squeeze(1).int()
        request_of, item_of = (x.index_select(0, index) for x in (batch.request_of, batch.item_of))
        stacked = torch.stack((request_of, item_of + len(batch.numbers["query"])), 1)
        ends = torch.arange(0, 2 * padded(len(index)) + 1, 2, dtype=torch.int32, device=index.device)
        filled = torch.cat((number, number[-1:].expand(padded(len(batch)) - len(batch))))
        return cls(
            index=index,
            rows=Csr(torch.arange(len(index), dtype=torch.int32, device=index.device), filled, None),
            draws=batch.draws,
            request_of=request_of,
            requests=_choose(batch.requests, chosen, number),
            item_of=item_of,
            items=_choose(batch.items, chosen, number),
            pairs=Csr(stacked.flatten(), ends.clamp_max(2 * len(index)), None),
            histories={
                name: _choose_events(events, chosen, number, index)
                for name, events in batch.histories.items()
            },
        )


def _before(chosen: Tensor) -> Tensor:
    """How many are chosen before each position, and in all: (N,) → (N + 1,) int32."""
    return torch.nn.functional.pad(chosen.cumsum(0, dtype=torch.int32), (1, 0))


def _choose(sums: Csr, chosen: Tensor, number: Tensor) -> Csr:
    """Sums of the chosen rows alone, renumbered; as many sums as before.

    Args:
        sums: of rows, each once and without weights.
        chosen: which rows: (N,) bool.
        number: `_before(chosen)`.
    """
    assert sums.start is not None
    kept = chosen.index_select(0, sums.row)
    row = number.index_select(0, sums.row[kept])
    return Csr(row, _before(kept).index_select(0, sums.start), None)


def _choose_events(past: AttendedEvents, chosen: Tensor, number: Tensor, index: Tensor) -> AttendedEvents:
    """The pairs of events and chosen candidates."""
    assert past.candidates.start is not None
    kept = chosen.index_select(0, past.candidate)
    pair = _before(kept)
    starts = pair.index_select(0, past.candidates.start)
    return replace(
        past,
        candidate=number.index_select(0, past.candidate[kept]),
        slot=past.slot[kept],
        candidates=Csr(
            torch.arange(int(pair[-1]), dtype=torch.int32, device=index.device),
            torch.cat((starts.index_select(0, index), starts[-1:])),
            None,
        ),
        slots=_choose(past.slots, kept, pair),
    )
