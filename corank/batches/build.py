"""Encoded rows, as they come from packed data → a batch: table reads, sums and pairs, all indices made ready.

Letters: R requests · C candidates · I distinct items · V table rows read · U distinct table rows
· H distinct items of histories · E events, of each request · P pairs of a candidate and an event of its request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corank.batches.batch import AttendedEvents, Batch, Csr, TableLookup, csr, fill, group, padded
from corank.core.ragged import Ragged, Rows
from corank.core.types import Floats, Hashes, Index, Ints, Longs
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_event_ages, read_event_rows
from corank.data.packed.shard import LoggedRequests
from corank.distributed.ranks import Ranks
from corank.distributed.row_shards import RowShards
from corank.features.encoding import PLACEMENTS, Placement
from corank.features.input_layout import Attended, Bags, Layout, VectorColumns, event_groups


@dataclass(frozen=True)
class EventRows:
    """The events of a history that R requests see."""

    items: Rows
    """Those of distinct items, H rows."""
    events: Ragged
    """Of each request its events, as positions among these: R lists."""
    ages: Ragged | None = None
    """log2(1 + s) of each event that is s seconds older than its request: R lists; None if nobody reads it."""

    def take(self, index: Index) -> Self:
        """Select the events of some requests; the items stay as they are."""
        ages = None if self.ages is None else self.ages.take(index)
        return replace(self, events=self.events.take(index), ages=ages)


@dataclass(frozen=True)
class EncodedBatch:
    """Whole requests: R rows of the query, I of distinct items, C of snapshots and of crosses.

    Letters: R requests · C candidates · I distinct items · H distinct items of a history.
    """

    user: Ints
    """Index into `PackedDataset.users`: (R,)."""
    query: Rows
    item: Rows
    cross: Rows
    request_of: Ints
    """The request of each candidate, ascending: (C,)."""
    item_of: Ints
    """The row of `item` of each candidate: (C,)."""
    item_row: Ints
    """The row of `PackedDataset.items` of each row of `item`, ascending: (I,)."""
    ordinal: Ints
    """The item of each row of `item`, as an index into the distinct items; ascending: (I,)."""
    by_item: Bags
    """The candidates of each item: I bags."""
    level: NDArray[np.uint8]
    """The level of the log, or the source of a negative beyond it: (C,)."""
    exposed: int
    """The deepest level."""
    weight: Floats
    """(C,)"""
    labels: dict[str, Floats]
    """0, 1, or -1 where unknown: (C,)."""
    scores: dict[str, Floats] = field(default_factory=dict)
    """Logged scores as logits, NaN where unknown: (C,)."""
    columns: dict[str, Floats] = field(default_factory=dict)
    """The data's `columns`: (C,)."""
    position: Longs | None = None
    """Position on the page, -1 where unknown: (C,)."""
    draw_order: Ints | None = None
    """Position in the drawn order of its request and level: (C,); None if all candidates are read."""
    represents: Floats | None = None
    """How many candidates of its request and level each one represents: (C,); None: one."""
    everywhere: tuple[str, ...] = ()
    """The labels that are known of candidates of all levels."""
    log_rates: dict[str, Floats] = field(default_factory=dict)
    """By label whose outcomes are drawn, as in `Batch`: (C,)."""
    share: Floats | None = None
    """Each item row's share of the log's candidates: (I,); None: that of the batch's candidates."""
    draws: Hashes | None = None
    """The state from which losses draw for each request (`Draws.keys`): (R,); None: its number in the batch."""
    snapshot: Rows | None = None
    """Snapshot features of each candidate's item, at its request: (C); None if there are none."""
    time: Longs | None = None
    """Of the requests, ms UTC: (R,); given with `snapshot`."""
    histories: dict[Attended, EventRows] = field(default_factory=dict)
    """Of each history that is attended to."""


def read_attended(
    packed: PackedDataset, rows: LoggedRequests, requests: Longs, attended: Attended, items: Ragged
) -> EventRows:
    """Read the events of a history that R requests see.

    Args:
        items: what `read_history_items` read of the history.
    """
    parts = read_event_rows(packed, rows, requests, attended.history, items, attended.features)
    ages = read_event_ages(packed, rows, requests, attended.history) if attended.ages else None
    return EventRows(*parts, ages)


def attended_events(past: EventRows, request_of: Ints) -> AttendedEvents:
    """Pair events with the candidates of their requests, and find their order in these.

    Args:
        past: the events of R requests.
        request_of: the request of each candidate, ascending: (C,).
    """
    items, events = past.items, past.events
    event = events.flat().astype(np.int32)
    item_rows, item_start, order = group(event)
    counts = np.zeros(len(items) + 1, dtype=np.int32)
    counts[item_rows + 1] = np.diff(item_start)
    by_item = Bags(order, np.cumsum(counts, dtype=np.int32), None, len(items))

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

    longest, newer = padded(int(events.length.max(initial=0))), events.length[request] - 1 - nth_event

    def by_start(row: Index, starts: Index) -> Csr:
        start = np.append(starts, len(row)).astype(np.int32)
        return csr(Bags(row.astype(np.int32), start, None, len(starts)))

    return AttendedEvents(
        torch.from_numpy(event),
        csr(fill(by_item, padded(len(items)))),
        torch.from_numpy(candidate),
        torch.from_numpy(slot),
        by_start(np.arange(len(candidate)), ends - length),
        by_start(slots, of_slot),
        torch.from_numpy(request * longest + nth_event),
        longest,
        _fill_up(newer),
        None if past.ages is None else _fill_up(past.ages.flat()),
    )


def _fill_up(values: NDArray[Any]) -> Tensor:
    """Append zeros to what is of each event: (E,) → (E',)."""
    return torch.from_numpy(np.pad(values, (0, padded(len(values)) - len(values))))


def _lookup(bags: dict[Placement | Attended, Bags], count: int, shards: RowShards | None) -> TableLookup:
    """Gather all reads of one table of so many rows, which is sharded if `shards` are given. Raises IndexError."""
    parts, offset = [], 0
    for part in bags.values():
        parts.append(part.bag_of() + np.int32(offset))
        offset += part.count
    bag = np.concatenate(parts)
    rows = np.concatenate([part.row for part in bags.values()])
    touched, start, order = group(rows if shards is None else shards.positions(rows))
    read = touched if shards is None else rows
    if len(read) and not (read.min() >= 0 and read.max() < count):
        raise IndexError(f"rows {read.min()} to {read.max()} of a table of {count:,}")
    weight = None
    if any(part.weight is not None for part in bags.values()):
        ones = [
            np.ones(len(p.row), dtype=np.float32) if p.weight is None else p.weight for p in bags.values()
        ]
        weight = np.concatenate(ones)[order]
    owned: tuple[int, ...] = ()
    if shards is not None:
        bags = _read_touched(bags, start, order)
        touched, owned = shards.by_rank(touched)
    return TableLookup(
        {placement: csr(part) for placement, part in bags.items()},
        torch.from_numpy(touched),
        csr(Bags(bag.take(order), start, weight, len(touched))),
        owned,
    )


def _read_touched(
    bags: dict[Placement | Attended, Bags], start: Ints, order: Ints
) -> dict[Placement | Attended, Bags]:
    """The same bags of the rows of a matrix of the distinct rows, which are grouped by `start` and `order`."""
    position = np.empty(len(order), dtype=np.int32)
    position[order] = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))
    ends = np.cumsum([len(part.row) for part in bags.values()])
    return {
        placement: replace(part, row=position[end - len(part.row) : end])
        for (placement, part), end in zip(bags.items(), ends, strict=True)
    }


def _share(encoded: EncodedBatch) -> Floats:
    """Return each item row's share of the log's candidates, or else of the batch's: (I,)."""
    if encoded.share is not None:
        return encoded.share
    assert encoded.by_item.start is not None
    share: Floats = (np.diff(encoded.by_item.start) / max(1, len(encoded.by_item.row))).astype(np.float32)
    return share


def build_batch(
    layout: Layout, encoded: EncodedBatch, ranks: Ranks | None = None, sharded: bool = False
) -> Batch:
    """Look up what a batch reads of embedding tables, and make all its indices ready.

    Args:
        layout: of the tables.
        encoded: this rank's part of the batch.
        ranks: who has the other parts; nobody if not given.
        sharded: whether the tables are sharded over the ranks.
    """
    ranks = ranks or Ranks()
    shards = {
        dim: RowShards(count, ranks.world) if sharded else None for dim, count in layout.table_rows.items()
    }
    rows = _placed_rows(encoded)
    bags: dict[int, dict[Placement | Attended, Bags]] = {dim: {} for dim in layout.table_rows}
    for placement in PLACEMENTS:
        for part in layout.groups[placement]:
            bags[part.dim][placement] = part.bags(rows[placement])
    for attended, past in encoded.histories.items():
        for part in event_groups(layout, attended.history, attended.features):
            bags[part.dim][attended] = part.bags(past.items)
    requests, candidates = len(encoded.query), len(encoded.request_of)
    start = np.searchsorted(encoded.request_of, np.arange(requests + 1)).astype(np.int32)
    # a bag of two rows, the request's and the item's, for each candidate
    both = np.stack((encoded.request_of, encoded.item_of + np.int32(requests)), axis=1).ravel()
    pairs = Bags(both, np.arange(0, 2 * candidates + 1, 2, dtype=np.int32), None, candidates)
    earliest, earliest_time = map(_tensor, _find_earliest(encoded))
    draws = np.arange(requests, dtype=np.uint64) if encoded.draws is None else encoded.draws
    return Batch(
        lookups={dim: _lookup(parts, layout.table_rows[dim], shards[dim]) for dim, parts in bags.items()},
        numbers={p: torch.from_numpy(np.ascontiguousarray(rows[p].numbers)) for p in PLACEMENTS},
        vectors=_vectors(layout, rows, encoded.histories),
        draws=torch.from_numpy(draws.view(np.int64)),
        request_of=torch.from_numpy(encoded.request_of),
        requests=csr(Bags(np.arange(candidates, dtype=np.int32), start, None, requests)),
        item_of=torch.from_numpy(encoded.item_of),
        item_row=torch.from_numpy(encoded.item_row),
        ordinal=torch.from_numpy(encoded.ordinal),
        items=csr(fill(encoded.by_item, padded(len(encoded.item)))),
        share=torch.from_numpy(_share(encoded)),
        pairs=csr(fill(pairs, padded(candidates))),
        level=torch.from_numpy(encoded.level),
        exposed=encoded.exposed,
        weight=torch.from_numpy(encoded.weight),
        labels=_tensors(encoded.labels),
        scores=_tensors(encoded.scores),
        draw_order=_tensor(encoded.draw_order),
        position=_tensor(encoded.position),
        columns=_tensors(encoded.columns),
        represents=_tensor(encoded.represents),
        everywhere=encoded.everywhere,
        log_rates=_tensors(encoded.log_rates),
        earliest=earliest,
        earliest_time=earliest_time,
        histories={
            attended: attended_events(past, encoded.request_of)
            for attended, past in encoded.histories.items()
        },
        ranks=ranks,
    )


def replace_rows(layout: Layout, batch: Batch, before: EncodedBatch, after: EncodedBatch) -> Batch:
    """Build the batch `after` of that of `before`, of which it differs in rows or histories; all else is shared.

    The indices by which gradients return to the tables stay those of `before`, so it is for inference alone.
    """
    old, rows = _placed_rows(before), _placed_rows(after)
    changed = [placement for placement in PLACEMENTS if rows[placement] is not old[placement]]
    reads = {dim: dict(lookup.reads) for dim, lookup in batch.lookups.items()}
    for placement, part in ((p, part) for p in changed for part in layout.groups[p]):
        reads[part.dim][placement] = csr(part.bags(rows[placement]))
    histories = {
        attended: attended_events(past, after.request_of)
        for attended, past in after.histories.items()
        if past is not before.histories[attended]
    }
    return replace(
        batch,
        lookups={dim: replace(lookup, reads=reads[dim]) for dim, lookup in batch.lookups.items()},
        numbers=batch.numbers | {p: torch.from_numpy(np.ascontiguousarray(rows[p].numbers)) for p in changed},
        vectors=batch.vectors | {p: _gather(rows[p], layout.vectors[p]) for p in changed},
        histories=batch.histories | histories,
    )


def _vectors(
    layout: Layout, rows: Mapping[Placement, Rows], histories: Mapping[Attended, EventRows]
) -> dict[Placement | Attended, tuple[Tensor, ...]]:
    """Gather the vectors that networks read: of every placement, and of the items attended to."""
    vectors: dict[Placement | Attended, tuple[Tensor, ...]] = {
        placement: _gather(rows[placement], columns) for placement, columns in layout.vectors.items()
    }
    for attended, past in histories.items():
        vectors[attended] = _gather(past.items, layout.vectors_of("item", attended.features))
    return vectors


def _gather(rows: Rows, columns: Iterable[VectorColumns]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(rows.vectors[column.index].with_missing()) for column in columns)


def _placed_rows(encoded: EncodedBatch) -> dict[Placement, Rows]:
    """The encoded rows by placement."""
    count = len(encoded.request_of)
    none = Rows(np.empty((count, 0), np.int32), np.empty((count, 0), np.float32), ())
    snapshot = none if encoded.snapshot is None else encoded.snapshot
    return {"query": encoded.query, "item": encoded.item, "snapshot": snapshot, "cross": encoded.cross}


def _find_earliest(encoded: EncodedBatch) -> tuple[Ints | None, Longs | None]:
    """Find the candidate of the earliest request of each item, and the time of that request: (I,), (I,).

    None, None if there are no snapshot features.
    """
    time, by_item = encoded.time, encoded.by_item
    if encoded.snapshot is None or time is None or by_item.start is None:
        return None, None
    if not by_item.count:
        return np.empty(0, np.int32), np.empty(0, np.int64)
    # a number that holds the request's rank in time and the candidate: their minimum is found in one pass
    rank = np.empty(len(time), dtype=np.int64)
    rank[np.argsort(time, kind="stable")] = np.arange(len(time))
    keys = rank[encoded.request_of[by_item.row]] << 32 | by_item.row
    earliest = (np.minimum.reduceat(keys, by_item.start[:-1]) & 0xFFFFFFFF).astype(np.int32)
    return earliest, time[encoded.request_of[earliest]]


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
