"""Negatives beyond the log: for each request, items of the batch's other requests or of the catalogue.

They represent items that were not retrieved. A request's own candidates are never among them. An item has the features
that hold at the time of the request. Logged crosses of such a pair are missing.

Letters: R requests · C candidates · X drawn pairs.
"""

import numpy as np
from numpy.typing import NDArray

from corank.batches.draws import Draws, Purpose, below, draw
from corank.batches.sampling import BATCH, CATALOGUE, Population
from corank.core.types import Ints, Longs
from corank.data.packed.dataset import PackedDataset

_PURPOSES = {BATCH: Purpose.BATCH, CATALOGUE: Purpose.CATALOGUE}


def draw_negatives(
    packed: PackedDataset,
    split: str,
    population: Population,
    draws: Draws,
    requests: Longs,
    time: Longs,
    request_of: Ints,
    row_of: Ints,
    batch: Ints,
) -> tuple[Ints, Ints, NDArray[np.uint8], Ints]:
    """Draw the pairs that a population wants; the catalogue of a split is what was a candidate of some request.

    Args:
        packed, split: the data, and their split.
        population: source → pairs a request.
        draws: of the epoch.
        requests, time: number in the split, and ms UTC, of the batch's requests: (R,).
        request_of, row_of: request and item row of all candidates of the batch's requests, read or not: (C,).
        batch: the item rows that the batch reads on all ranks, as often as it reads them.

    Returns:
        Request, item row, source and `draw_order` of each pair: (X,) each.
    """
    request: list[Ints] = []
    item: list[Ints] = []
    source: list[NDArray[np.uint8]] = []
    for code, purpose in _PURPOSES.items():
        count = population.get(code)
        among = packed.item_ordinals[batch] if code == BATCH else packed.item_counts[split].seen
        if count and len(among):
            nth = np.tile(np.arange(count), len(requests))
            hashes = draw(np.repeat(draws.keys(purpose, requests), count), nth)
            request.append(np.repeat(np.arange(len(requests), dtype=np.int32), count))
            item.append(among[below(hashes, len(among))])
            source.append(np.full(len(nth), code, dtype=np.uint8))
    if not request:
        nothing = np.empty(0, dtype=np.int32)
        return nothing, nothing, nothing.astype(np.uint8), nothing
    request_x, item_x, source_x = np.concatenate(request), np.concatenate(item), np.concatenate(source)
    many = int(packed.item_ordinals[-1]) + 1
    pairs = _find_new(request_x, item_x, request_of, packed.item_ordinals[row_of], many)
    request_x, item_x, source_x = request_x[pairs], item_x[pairs], source_x[pairs]
    row_x = packed.item_versions.find_at(item_x, time[request_x]).astype(np.int32)
    return request_x, row_x, source_x, _count_before(source_x.astype(np.int64) << 32 | request_x)


def _find_new(request: Ints, item: Ints, request_of: Ints, item_of: Ints, many: int) -> Longs:
    """Select the drawn pairs, of `many` items, that are neither a candidate nor drawn before, in the order drawn."""
    requests, items = np.concatenate((request_of, request)), np.concatenate((item_of, item))
    key = requests.astype(np.int64) * many + items
    order = np.argsort(key)
    first = np.minimum.reduceat(order, np.flatnonzero(np.diff(key[order], prepend=-1)))
    new: Longs = np.sort(first[first >= len(item_of)]) - len(item_of)
    return new


def _count_before(groups: Longs) -> Ints:
    """Count for each entry those of its group before it; the entries of a group stand together: (N,)."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    before = np.arange(len(groups)) - np.repeat(begins, np.diff(begins, append=len(groups)))
    return before.astype(np.int32)
