"""What a batch is: whole requests, each query and each distinct item once, all indices made ready.

Letters: R requests · C candidates · I distinct items · B bags · V table rows read · U distinct table rows
· H distinct items of histories · E events, of each request · P pairs of a candidate and an event of its request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corank.batches.sampling import Population
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Index, Ints
from corank.features.input_layout import Attended, Bags, Layout
from corank.features.schema import PLACEMENTS, Placement


@dataclass(frozen=True)
class Csr:
    """B sums of rows of some matrix: output b = Σ weight[j]·matrix[row[j]], start[b] ≤ j < start[b+1]."""

    row: Tensor  # (V,) int32
    start: Tensor | None  # (B + 1,) int32; None where every output is one row
    weight: Tensor | None  # (V,) float32


@dataclass(frozen=True)
class Lookup:
    """All reads of one table by a batch, and the way back for their gradients."""

    reads: dict[Placement | Attended, Csr]
    touched: Tensor
    """Distinct table rows read, ascending: (U,)."""
    back: Csr
    """Sums the gradients of all placements' bags, stacked in the order of `reads`, by touched row."""


@dataclass(frozen=True)
class Past:
    """The events of a history that is attended to, and their pairs with the candidates of their requests."""

    event: Tensor  # (E,) int32, its row among the H distinct items
    events: Csr
    """Events summed by distinct item, `padded(H)` of them."""
    candidate: Tensor  # (P,) int32, ascending
    slot: Tensor  # (P,) int32, the event of each pair
    candidates: Csr
    """Pairs summed by candidate: (C)."""
    slots: Csr
    """Pairs summed by event: (E)."""


@dataclass(frozen=True)
class Batch:
    lookups: dict[int, Lookup]
    """By table dimension."""
    numbers: dict[Placement, Tensor]
    request_of: Tensor  # (C,) int32, ascending
    requests: Csr
    """Candidates summed by request."""
    item_of: Tensor  # (C,) int32
    items: Csr
    """Candidates summed by distinct item, `padded(I)` of them."""
    share: Tensor
    """Each item row's share of the log's candidates, at the levels that are read: (I,) float32."""
    pairs: Csr
    """For each candidate its request's row and its item's, in a stack of R and `padded(I)`; `padded(C)` of them."""
    level: Tensor  # (C,) uint8, or the source of a negative beyond the log
    exposed: int
    """The deepest level."""
    weight: Tensor  # (C,) float32
    labels: dict[str, Tensor]
    """(C,) float32: 0, 1, or -1 where unknown."""
    scores: dict[str, Tensor]
    """Logged scores as logits, NaN where unknown: (C,) float32."""
    place: Tensor | None
    """Place in the drawn order of request and level, (C,) int32; None where all candidates are read."""
    position: Tensor | None = None
    """Where it stood on the page, -1 where unknown: (C,) int64, if the log has it."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """Of the log or its items, for values to name: (C,) float32."""
    same: Tensor | None = None
    """The first of the batch's item rows that is of the same item: (I,) int64; None where each is of another."""
    stands_for: Tensor | None = None
    """How many of the log's candidates, of its request and level, each stands for: (C,) float32; None: itself alone."""
    past: dict[Attended, Past] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.request_of)

    def to(self, device: torch.device) -> "Batch":
        moved: Batch = _moved(self, device)
        return moved

    def known(self, label: str) -> Tensor:
        """Weight of the exposed candidates with a known label, 0 elsewhere: (C,)."""
        return self.weight * (self.labels[label] >= 0) * (self.level == self.exposed)

    def sampled(self, population: Population) -> Tensor:
        """Whether a candidate is of the population: (C,) bool."""
        here = torch.zeros_like(self.level, dtype=torch.bool)
        for level, count in population.items():
            of_level = self.level == level
            here |= of_level if count is None or self.place is None else of_level & (self.place < count)
        return here


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _moved(getattr(value, f.name), device) for f in fields(value)})
    return value


def padded(rows: int) -> int:
    """`rows` rounded up, by 1/16 at most.

    oneDNN builds a kernel for every new shape of a product, 0.5 ms each. I and C differ from batch to batch, so dense
    inputs are filled up with rows of zeros, which belong to no candidate, until their shapes repeat.
    """
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


def _csr(bags: Bags) -> Csr:
    return Csr(
        torch.from_numpy(bags.row),
        None if bags.start is None else torch.from_numpy(bags.start),
        None if bags.weight is None else torch.from_numpy(bags.weight),
    )


def grouped(keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct keys ascending (U,), their starts (U + 1,), and the positions of each, in order: (V,)."""
    # numpy's stable sort of 16 bits is a radix sort: two of them are faster than any one sort of 32
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    order = order[np.argsort((keys >> 16).astype(np.uint16)[order], kind="stable")]
    key = keys[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    start = np.append(first, len(keys)).astype(np.int32)
    return key[first], start, order.astype(np.int32)


def _lookup(bags: dict[Placement | Attended, Bags]) -> Lookup:
    parts, offset = [], 0
    for part in bags.values():
        parts.append(part.bag_of() + np.int32(offset))
        offset += part.count
    bag = np.concatenate(parts)
    touched, start, order = grouped(np.concatenate([part.row for part in bags.values()]))
    weight = None
    if any(part.weight is not None for part in bags.values()):
        ones = [
            np.ones(len(p.row), dtype=np.float32) if p.weight is None else p.weight for p in bags.values()
        ]
        weight = np.concatenate(ones)[order]
    return Lookup(
        {placement: _csr(part) for placement, part in bags.items()},
        torch.from_numpy(touched),
        _csr(Bags(bag[order], start, weight, len(touched))),
    )


def _pairs(first: Ints, second: Ints) -> Bags:
    start = np.arange(0, 2 * len(first) + 1, 2, dtype=np.int32)
    return Bags(np.stack((first, second), axis=1).ravel(), start, None, len(first))


def _filled(bags: Bags, count: int) -> Bags:
    """The bags, and empty ones up to `count`."""
    assert bags.start is not None
    return Bags(bags.row, np.pad(bags.start, (0, count - bags.count), mode="edge"), bags.weight, count)


def _share(bags: Bags) -> Floats:
    assert bags.start is not None
    share: Floats = (np.diff(bags.start) / max(1, len(bags.row))).astype(np.float32)
    return share


def assemble(
    layout: Layout,
    query: Rows,
    item: Rows,
    cross: Rows,
    request_of: Ints,
    item_of: Ints,
    items: Bags,
    level: NDArray[np.uint8],
    exposed: int,
    weight: Floats,
    labels: dict[str, Floats],
    scores: dict[str, Floats] | None = None,
    place: Ints | None = None,
    share: Floats | None = None,
    past: Mapping[Attended, tuple[Rows, Ragged]] | None = None,
    **others: Any,
) -> Batch:
    """A batch from encoded rows: R of the query, I of distinct items, C of crosses; `items` groups the C by I.

    The `share` of the items is that of the batch's candidates unless given. `past` holds, of each history attended to,
    H item rows and for each request its events among them. `others` are fields of the batch as they are.
    """
    rows: dict[Placement, Rows] = {"query": query, "item": item, "cross": cross}
    bags: dict[int, dict[Placement | Attended, Bags]] = {dim: {} for dim in layout.table_rows}
    for placement in PLACEMENTS:
        for group in layout.groups[placement]:
            bags[group.dim][placement] = group.bags(rows[placement])
    past = past or {}
    for attended, (found, _) in past.items():
        for group in layout.groups_of("item", attended.features):
            bags[group.dim][attended] = group.bags(found)
    request_start = np.searchsorted(request_of, np.arange(len(query) + 1)).astype(np.int32)
    return Batch(
        lookups={dim: _lookup(parts) for dim, parts in bags.items()},
        numbers={p: torch.from_numpy(np.ascontiguousarray(rows[p].numbers)) for p in PLACEMENTS},
        request_of=torch.from_numpy(request_of),
        requests=_csr(Bags(np.arange(len(request_of), dtype=np.int32), request_start, None, len(query))),
        item_of=torch.from_numpy(item_of),
        items=_csr(_filled(items, padded(len(item)))),
        share=torch.from_numpy(_share(items) if share is None else share),
        pairs=_csr(_filled(_pairs(request_of, item_of + np.int32(len(query))), padded(len(request_of)))),
        level=torch.from_numpy(level),
        exposed=exposed,
        weight=torch.from_numpy(weight),
        labels={name: torch.from_numpy(values) for name, values in labels.items()},
        scores={name: torch.from_numpy(values) for name, values in (scores or {}).items()},
        place=None if place is None else torch.from_numpy(place),
        past={attended: _past(*held, request_of) for attended, held in past.items()},
        **others,
    )


def _past(items: Rows, events: Ragged, request_of: Ints) -> Past:
    """`events`: of each of R requests, the places of their items among the H `items`."""
    event = events.flat().astype(np.int32)
    found, item_start, order = grouped(event)
    held = np.zeros(len(items) + 1, dtype=np.int32)
    held[found + 1] = np.diff(item_start)
    by_item = Bags(order, np.cumsum(held, dtype=np.int32), None, len(items))

    # pairs go by candidate, then by event: those of an event lie as far apart as its request has events
    size = np.bincount(request_of, minlength=len(events.length))
    first_slot = np.cumsum(events.length, dtype=np.int64) - events.length
    pairs_of = size * events.length.astype(np.int64)
    first_pair = np.cumsum(pairs_of) - pairs_of
    length = events.length[request_of].astype(np.int64)
    ends = np.cumsum(length)
    candidate = np.repeat(np.arange(len(length), dtype=np.int32), length)
    nth = np.arange(len(candidate)) - np.repeat(ends - length, length)
    slot = (first_slot[request_of][candidate] + nth).astype(np.int32)
    request = events.row_of()
    times = size[request]
    nth_event = np.arange(len(event)) - first_slot[request]
    of_slot = np.cumsum(times) - times
    nth_time = np.arange(len(candidate)) - np.repeat(of_slot, times)
    slots = np.repeat(first_pair[request] + nth_event, times)
    slots += nth_time * np.repeat(events.length[request], times)

    def csr(row: Index, starts: Index) -> Csr:
        start = np.append(starts, len(row)).astype(np.int32)
        return _csr(Bags(row.astype(np.int32), start, None, len(starts)))

    return Past(
        torch.from_numpy(event),
        _csr(_filled(by_item, padded(len(items)))),
        torch.from_numpy(candidate),
        torch.from_numpy(slot),
        csr(np.arange(len(candidate)), ends - length),
        csr(slots, of_slot),
    )
