"""Retrieval in a bundle: the candidates of a request that brings none, by an exact search of item vectors.

Letters: N items of the bundle · d last width of the towers.
"""

from functools import lru_cache, partial
from typing import Self

import numpy as np
import polars as pl

from corank.bundle.item_layers import LayeredItems
from corank.bundle.stage_facts import VECTOR
from corank.core.ordering import top_k
from corank.core.types import Floats, Longs, Mask
from corank.core.vector_search import RetrievalSettings, search_vectors
from corank.features.operands import Operands
from corank.features.schema import Schema

FILTERS, FILTER_BYTES = 256, 128 << 20
"""Filters whose items are cached, eight bytes an item: how many, and how much memory they may take."""

Where = tuple[tuple[str, tuple[int, ...]], ...]
"""Filters of a request: for each feature the hashes of the values that may pass, both ascending."""


class Retrieval:
    """Finds candidates of one model version, among the items at one change. Safe to share between threads."""

    def __init__(self, settings: RetrievalSettings, items: LayeredItems) -> None:
        self.settings = settings
        base, *newer = items.layers
        assert len(newer) < 2
        self._layers = items.layers
        stale: Longs = items.removed
        if newer:
            position = base.records.ids.find(newer[0].records.ids.values)
            stale = np.union1d(stale, position[position >= 0])
        cached = max(1, min(FILTERS, FILTER_BYTES // max(1, 8 * int(items.bounds[-1]))))
        self._allowed = [
            lru_cache(maxsize=cached)(partial(_allowed, layer.records.operands, replaced))
            for layer, replaced in zip(items.layers, (stale, stale[:0]), strict=False)
        ]

    def with_items(self, items: LayeredItems) -> Self:
        """Search other newer items on top of the same bundle."""
        return type(self)(self.settings, items)

    def search(self, query: Floats, k: int, where: Where) -> Longs:
        """Find the k items with the largest dot product with a query (d,) that pass the filters.

        Returns:
            Their positions in `LayeredItems`, best first; fewer than k if fewer pass.
        """
        part, first = f"{self.settings.stage}.{VECTOR}", 0
        rows, scores = list[Longs](), list[Floats]()
        for layer, allowed in zip(self._layers, self._allowed, strict=True):
            found, products = search_vectors(layer.parts[part], query, k, allowed(where))
            rows.append(found + first)
            scores.append(products)
            first += len(layer.parts[part])
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows)[top_k(np.concatenate(scores), k)]


def _allowed(operands: Operands, stale: Longs, where: Where) -> Longs | None:
    """The rows that pass the filters and that newer ones do not replace; None for all."""
    if not len(stale) and not where:
        return None
    mask = mask_items(operands, where)
    mask[stale] = False
    return np.flatnonzero(mask)


def mask_items(operands: Operands, where: Where) -> Mask:
    """Mark the items that have one of the wanted values of every filtered feature: (N,).

    By a hash table, which takes as long for a thousand values as for one; NumPy sorts all items.
    """
    mask = np.ones(operands.count, dtype=bool)
    for name, values in where:
        wanted = pl.Series(values, dtype=pl.UInt64).implode()
        if name in operands.keys:
            mask &= pl.Series(operands.keys[name]).is_in(wanted).to_numpy()
        else:
            lists = operands.lists[name]
            hits: Longs = lists.row_of()[pl.Series(lists.flat()).is_in(wanted).to_numpy()]
            some = np.zeros(operands.count, dtype=bool)
            some[hits] = True
            mask &= some
    return mask


def filter_columns(schema: Schema) -> dict[str, str]:
    """Map the columns that a request may filter by to their features."""
    return {schema.column(name): name for name in schema.filters()}
