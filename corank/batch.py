"""What a batch is: whole requests, each query and each distinct item once, all indices made ready.

Letters: R requests · C candidates · I distinct items · B bags · V table rows read · U distinct table rows.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corank.layout import Bags, Layout
from corank.rows import Floats, Ints, Rows
from corank.sampling import Population
from corank.schema import PLACEMENTS, Placement


@dataclass(frozen=True)
class Csr:
    """B sums of rows of some matrix: output b = Σ weight[j]·matrix[row[j]], start[b] ≤ j < start[b+1]."""

    row: Tensor  # (V,) int32
    start: Tensor | None  # (B + 1,) int32; None where every output is one row
    weight: Tensor | None  # (V,) float32


@dataclass(frozen=True)
class Lookup:
    """All reads of one table by a batch, and the way back for their gradients."""

    reads: dict[Placement, Csr]
    touched: Tensor
    """Distinct table rows read, ascending: (U,)."""
    back: Csr
    """Sums the gradients of all placements' bags, stacked in the order of `reads`, by touched row."""


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


def _lookup(bags: dict[Placement, Bags]) -> Lookup:
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
) -> Batch:
    """A batch from encoded rows: R of the query, I of distinct items, C of crosses; `items` groups the C by I.

    The `share` of the items is that of the batch's candidates unless given.
    """
    rows: dict[Placement, Rows] = {"query": query, "item": item, "cross": cross}
    bags: dict[int, dict[Placement, Bags]] = {dim: {} for dim in layout.table_rows}
    for placement in PLACEMENTS:
        for group in layout.groups[placement]:
            bags[group.dim][placement] = group.bags(rows[placement])
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
    )
