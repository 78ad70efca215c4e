"""Negatives beyond the log: for each request, items of the batch's other requests or of the catalogue.

They represent items that were not retrieved. A request's own candidates are never among them. An item has the features
that hold at the time of the request. Logged crosses of such a pair are missing.

Letters: R requests · C candidates · I items · X drawn pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from corank.batches.sampling import BATCH, CATALOGUE, Population, draw_order
from corank.core.time import NEVER
from corank.core.types import Ints, Longs
from corank.data.dataset import PackedDataset


@dataclass(frozen=True)
class Negatives:
    """Draws negatives from the items of a split."""

    packed: PackedDataset
    split: str

    def draw(
        self,
        population: Population,
        batch: Ints,
        request_of: Ints,
        row_of: Ints,
        time: Longs,
        rng: np.random.Generator,
    ) -> tuple[Ints, Ints, NDArray[np.uint8], Ints]:
        """Draw the pairs that a population wants.

        Args:
            population: source → pairs a request.
            batch: the item rows that the batch reads, as often as it reads them.
            request_of, row_of: request and item row of all candidates of the batch's requests, read or not: (C,).
            time: of the requests, ms UTC: (R,).
            rng: a source of random numbers.

        Returns:
            Request, item row, source and `draw_order` of each pair, by request: (X,) each.
        """
        requests = len(time)
        request: list[Ints] = []
        item: list[Ints] = []
        source: list[NDArray[np.uint8]] = []
        for code in (BATCH, CATALOGUE):
            count = population.get(code)
            if not count:
                continue
            among = self.item_of_row[batch] if code == BATCH else self._seen
            if len(among):
                request.append(np.repeat(np.arange(requests, dtype=np.int32), count))
                item.append(among[rng.integers(0, len(among), requests * count)])
                source.append(np.full(requests * count, code, dtype=np.uint8))
        if not request:
            nothing = np.empty(0, dtype=np.int32)
            return nothing, nothing, nothing.astype(np.uint8), nothing
        request_x, item_x, source_x = np.concatenate(request), np.concatenate(item), np.concatenate(source)
        pairs = self._new(request_x, item_x, request_of, self.item_of_row[row_of])
        request_x, item_x, source_x = request_x[pairs], item_x[pairs], source_x[pairs]
        row_x = self.packed.item_versions.find_at(item_x, time[request_x]).astype(np.int32)
        return request_x, row_x, source_x, draw_order(request_x, source_x, rng)

    def counts(self, population: Population | None) -> Longs:
        """Count the log's candidates of each item row, at all levels or those of a population."""
        counts = np.zeros(len(self._from), dtype=np.int64)
        for shard in self.packed.splits[self.split]:
            row = shard.item if population is None else shard.item[np.isin(shard.level, list(population))]
            counts += np.bincount(row, minlength=len(counts))
        return counts

    def _new(self, request: Ints, item: Ints, request_of: Ints, item_of: Ints) -> NDArray[np.intp]:
        """Select the drawn pairs that are neither a candidate nor drawn before, by request."""
        many = len(self.packed.item_versions.ids)
        key = request.astype(np.int64) * many + item
        held = request_of.astype(np.int64) * many + item_of
        distinct, first = np.unique(key, return_index=True)
        new: NDArray[np.intp] = first[~np.isin(distinct, held)]
        return new

    @cached_property
    def _from(self) -> Longs:
        return self.packed.item_keys["valid_from"].to_numpy()

    @cached_property
    def item_of_row(self) -> Ints:
        """The item of each row, as an index into the distinct items."""
        return (np.cumsum(self._from == NEVER) - 1).astype(np.int32)

    @cached_property
    def _seen(self) -> Ints:
        """The items that were a candidate of some request of the split: others are not in its catalogue yet."""
        return np.unique(self.item_of_row[self.counts(None) > 0])
