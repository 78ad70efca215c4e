"""Events that a stage attends to → their pairs with the candidates of their requests, and their order in these.

Letters: R requests · C candidates · H distinct items of histories · E events, of each request
· P pairs of a candidate and an event of its request.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corank.batches.batch import AttendedEvents, Csr
from corank.batches.encoded_batch import EventRows
from corank.batches.sums import csr, fill, group, padded
from corank.core.ragged import Ragged
from corank.core.types import Index, Ints, Longs
from corank.data.dataset import PackedDataset
from corank.data.packed.logged_requests import LoggedRequests
from corank.data.packed_history import read_event_ages, read_event_rows
from corank.features.input_layout import Attended, Bags


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
