"""The requests of some batches, gathered from the shards that they are spread over.

Letters: R requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from corank.batches.draws import Draws
from corank.core.ragged import Ragged
from corank.core.types import Index, Longs
from corank.data.packed.logged_requests import LoggedRequests


@dataclass(frozen=True)
class DrawnRequests:
    """The requests of a batch: R of those that were gathered."""

    rows: LoggedRequests
    requests: Longs
    """Their positions among `rows`: (R,)."""
    numbers: Longs
    """Their numbers in the split: (R,)."""
    draws: Draws
    """Of the epoch."""


def gather_batches(
    shards: Sequence[LoggedRequests], sizes: Sequence[int], batches: Sequence[Longs], draws: Draws
) -> Iterator[DrawnRequests]:
    """Gather the requests of some batches, shard by shard, in the order of the log.

    A batch has a few requests of every shard. To read each by itself would take longer than to copy what is read of
    many batches at once. If one shard has all, nothing is copied.

    Args:
        shards: of the split; those that have none of the requests are not opened.
        sizes: how many requests each shard has.
        batches: the numbers of the requests of each batch.
        draws: of the epoch.
    """
    numbers = np.sort(np.concatenate(batches))
    begins = np.cumsum([0, *sizes])
    bounds = np.searchsorted(numbers, begins)
    parts = [
        (shards[n], numbers[bounds[n] : bounds[n + 1]] - begins[n])
        for n in np.flatnonzero(np.diff(bounds)).tolist()
    ]
    if len(parts) > 1:
        first, *others = (shard.take(requests) for shard, requests in parts)
        rows, positions = first.concat(*others), np.arange(len(numbers))
    else:
        rows, positions = parts[0] if parts else (shards[0], numbers)
    for batch in batches:
        yield DrawnRequests(rows, positions[np.searchsorted(numbers, batch)], batch, draws)


def check_lengths(lists: Iterable[Ragged], index: Index) -> None:
    """Raise IndexError if a list is longer than all values together: to gather it might take all memory."""
    for ragged in lists:
        length = ragged.length[index]
        if len(length) and not (length.min() >= 0 and length.max() <= len(ragged.values)):
            raise IndexError(f"lists of {length.min()} to {length.max()} among {len(ragged.values):,} values")
