"""The items that a funnel ranks: those of its bundle, memory-mapped, and layers of newer ones in memory.

Letters: N items of a layer · P positions · d width of an item part.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl

from corank.bundle.item_records import ItemRecords
from corank.core.ragged import Rows
from corank.core.stored_matrix import StoredMatrix
from corank.core.types import Floats, Longs
from corank.features.operands import Operands

T = TypeVar("T", Rows, Operands)


@dataclass(frozen=True)
class ItemLayer:
    """N items: their records, and what stages keep of them by `STAGE.PART`, (N, d) each, as it is stored."""

    records: ItemRecords
    parts: Mapping[str, StoredMatrix]
    _operands: dict[frozenset[str], Operands] = field(default_factory=dict, init=False, compare=False)

    def operands(self, names: frozenset[str]) -> Operands:
        """The operands of some features, selected once."""
        if names not in self._operands:
            self._operands[names] = self.records.operands.among(names)
        return self._operands[names]

    @classmethod
    def concat(cls, layers: Sequence[Self]) -> Self:
        """Concatenate layers whose ids ascend from one to the next."""
        while len(layers) > 1:  # in pairs, so that each item is copied a few times only
            pairs = zip(layers[::2], layers[1::2], strict=False)
            layers = [one._append(other) for one, other in pairs] + list(layers[len(layers) // 2 * 2 :])
        return layers[0]

    def _append(self, other: Self) -> Self:
        parts = {name: part.concat(other.parts[name]) for name, part in self.parts.items()}
        return type(self)(self.records.concat(other.records), parts)

    def merge(self, newer: Self) -> Self:
        """Add newer items, which replace older ones of the same id."""
        older, order = self.records.order_with(newer.records)
        merged = self._select(older)._append(newer)._select(order)
        return replace(merged, records=merged.records.compact())

    def without(self, ids: pl.Series) -> Self:
        """Leave some items out."""
        gone = self.records.ids.find(ids)
        return self._select(np.setdiff1d(np.arange(len(self.records.ids)), gone))

    def _select(self, at: Longs) -> Self:
        return type(self)(self.records.select(at), {n: part.select(at) for n, part in self.parts.items()})


@dataclass(frozen=True)
class LayeredItems:
    """Layers of items, the oldest first. An item is looked up in the newest layer that has it.

    A position counts through all layers: those of the second layer follow those of the first.
    """

    layers: tuple[ItemLayer, ...]
    removed: Longs = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Positions of items of the first layer that are not known any more, ascending."""

    @cached_property
    def bounds(self) -> Longs:
        """The first position of every layer, and the end."""
        return np.cumsum([0, *(len(layer.records.ids) for layer in self.layers)])

    def with_layer(self, layer: ItemLayer) -> Self:
        """Add a newer layer."""
        return replace(self, layers=(*self.layers, layer))

    def with_items(self, newer: ItemLayer | None, gone: pl.Series | None = None) -> Self:
        """Merge newer items with those that came since the bundle, and remove others by their ids."""
        first, *later = self.layers
        removed, find = self.removed, first.records.ids.find
        if gone is not None:
            later = [layer.without(gone) for layer in later]
            removed = np.union1d(removed, find(gone))
        if newer is not None:
            for layer in reversed(later):
                newer = layer.merge(newer)
            later = [newer]
            removed = np.setdiff1d(removed, find(newer.records.ids.values))
        later = [layer for layer in later if len(layer.records.ids)]
        return type(self)((first, *later), removed[removed >= 0])

    @cached_property
    def text(self) -> bool:
        """Whether ids are text, rather than whole numbers."""
        return self.layers[0].records.ids.values.dtype == pl.String

    def find(self, ids: pl.Series) -> Longs:
        """Find the position of each id, −1 for one that is absent: (P,). Types must agree."""
        return self._newest([layer.records.ids.find(ids) for layer in self.layers])

    def find_numbers(self, ids: Longs) -> Longs:
        """Find the position of each id as `find` does, if ids are whole numbers."""
        return self._newest([layer.records.ids.find_numbers(ids) for layer in self.layers])

    def find_texts(self, ids: Sequence[str]) -> Longs:
        """Find the position of each id as `find` does, if ids are texts."""
        return self._newest([layer.records.ids.find_texts(ids) for layer in self.layers])

    def _newest(self, positions: list[Longs]) -> Longs:
        """Choose among the positions in each layer those in the newest one that has the item."""
        position = positions[0]
        if len(self.removed):
            near = np.searchsorted(self.removed, position).clip(max=len(self.removed) - 1)
            position = np.where(self.removed[near] == position, -1, position)
        for newer, first in zip(positions[1:], self.bounds[1:], strict=False):
            position = np.where(newer < 0, position, newer + first)
        return position

    def ids(self, position: Longs) -> list[Any]:
        """Return the ids at some positions: (P)."""
        ids = [None] * len(position)
        for layer, first, end in zip(self.layers, self.bounds, self.bounds[1:], strict=False):
            here = np.flatnonzero((position >= first) & (position < end))
            own = layer.records.ids.values[position[here] - first].to_list()
            for n, id_ in zip(here.tolist(), own, strict=True):
                ids[n] = id_
        return ids

    def rows(self, position: Longs) -> Rows:
        """Take encoded rows: (P)."""
        return self._gather(position, lambda layer, at: layer.records.rows.take(at))

    def operands(self, position: Longs, names: frozenset[str]) -> Operands:
        """Take the operands of some features: (P)."""
        return self._gather(position, lambda layer, at: layer.operands(names).take(at))

    def column(self, name: str, position: Longs) -> Floats:
        """Take one of the data's `columns`: (P,)."""

        def take_of(values: Floats) -> Callable[[Longs], Floats]:
            return lambda at: values.take(at, mode="clip")

        return self._overlay(position, [take_of(layer.records.columns[name]) for layer in self.layers])

    def part(self, name: str, position: Longs) -> Floats:
        """Take an item part, `STAGE.PART`, decoded: (P, d)."""
        return self._overlay(position, [layer.parts[name].take for layer in self.layers])

    def _overlay(self, position: Longs, takes: Sequence[Callable[[Longs], Floats]]) -> Floats:
        """Take numbers of some positions: from the first layer, and over them the few that are of newer ones.

        Args:
            position: (P,).
            takes: by layer what takes numbers; of a place beyond its end those of the last.
        """
        taken = takes[0](position)
        for take, first in zip(takes[1:], self.bounds[1:], strict=False):
            newer = np.flatnonzero(position >= first)
            if len(newer):
                taken[newer] = take(position[newer] - first)
        return taken

    def _gather(self, position: Longs, take: Callable[[ItemLayer, Longs], T]) -> T:
        """Take values of some positions from the layers, in the order of the positions."""
        if len(self.layers) == 1 or not len(position) or position.max() < self.bounds[1]:
            return take(self.layers[0], position)
        layer_of = np.searchsorted(self.bounds, position, side="right") - 1
        places = [np.flatnonzero(layer_of == n) for n in range(len(self.layers))]
        pieces = [
            take(layer, position[at] - first)
            for layer, first, at in zip(self.layers, self.bounds, places, strict=False)
            if len(at)
        ]
        back = np.empty(len(position), dtype=np.int64)
        back[np.concatenate(places)] = np.arange(len(position))
        return _join(pieces, back)


def _join(pieces: list[T], order: Longs) -> T:
    """Concatenate values and order them; lists without the values of the layers' other lists, which they share."""
    rows: Any
    rows, *others = pieces
    for other in others:
        rows = rows.compact().concat(other.compact())
    taken: T = rows.take(order)
    return taken
