"""The items that a funnel ranks: those of its bundle, memory-mapped, and later layers of newer ones in memory.

Letters: N items of a layer · P places · d last width of the towers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl

from corank.bundle.item_records import ItemRecords
from corank.core.ragged import Rows
from corank.core.types import Floats, Longs
from corank.features.operands import Operands

T = TypeVar("T", Rows, Operands, Floats)
Listed = TypeVar("Listed", Rows, Operands)


@dataclass(frozen=True)
class ItemLayer:
    """N items: what they are, and their vectors by towers stage, (N, d) each."""

    records: ItemRecords
    vectors: Mapping[str, Floats]

    @classmethod
    def concat(cls, layers: Sequence[Self]) -> Self:
        """Layers whose ids ascend from one to the next, as one."""
        while len(layers) > 1:  # in pairs, so that each item is copied a few times only
            pairs = zip(layers[::2], layers[1::2], strict=False)
            layers = [one._append(other) for one, other in pairs] + list(layers[len(layers) // 2 * 2 :])
        return layers[0]

    def _append(self, other: Self) -> Self:
        vectors = {name: np.concatenate((held, other.vectors[name])) for name, held in self.vectors.items()}
        return type(self)(self.records.concat(other.records), vectors)

    def merge(self, newer: Self) -> Self:
        """These items and newer ones, which take the place of the older."""
        older, order = self.records.order_with(newer.records)
        vectors = {
            name: np.concatenate((held[older], newer.vectors[name]))[order]
            for name, held in self.vectors.items()
        }
        return type(self)(self.records.merge(newer.records), vectors)


@dataclass(frozen=True)
class LayeredItems:
    """Layers, the oldest first; an item is where the newest layer has it. A place counts through all layers."""

    layers: tuple[ItemLayer, ...]

    @cached_property
    def bounds(self) -> Longs:
        """The first place of every layer, and the end."""
        return np.cumsum([0, *(len(layer.records.ids) for layer in self.layers)])

    def with_layer(self, layer: ItemLayer) -> Self:
        """With a newer layer."""
        return type(self)((*self.layers, layer))

    def with_items(self, newer: ItemLayer) -> Self:
        """With newer items among those that came since the bundle."""
        first, *later = self.layers
        for layer in reversed(later):
            newer = layer.merge(newer)
        return type(self)((first, newer))

    @property
    def text(self) -> bool:
        """Whether ids are text, rather than whole numbers."""
        return self.layers[0].records.ids.values.dtype == pl.String

    def find(self, ids: pl.Series) -> Longs:
        """Place of each item, −1 for one that is nowhere: (P,). Types must agree."""
        return self._newest([layer.records.ids.find(ids) for layer in self.layers])

    def find_numbers(self, ids: Longs) -> Longs:
        """`find` of whole numbers, where ids are such."""
        return self._newest([layer.records.ids.find_numbers(ids) for layer in self.layers])

    def _newest(self, found: list[Longs]) -> Longs:
        """Where each layer has some items → where the newest that has them does."""
        place = found[0]
        for newer, first in zip(found[1:], self.bounds[1:], strict=False):
            place = np.where(newer < 0, place, newer + first)
        return place

    def ids(self, place: Longs) -> list[Any]:
        """(P)"""
        found = [None] * len(place)
        for layer, first, end in zip(self.layers, self.bounds, self.bounds[1:], strict=False):
            here = np.flatnonzero((place >= first) & (place < end))
            for n, id_ in zip(here, layer.records.ids.values.gather(place[here] - first), strict=True):
                found[n] = id_
        return found

    def rows(self, place: Longs) -> Rows:
        """(P)"""
        return self._gathered(place, lambda layer, at: layer.records.rows.take(at), _compact, Rows.take)

    def operands(self, place: Longs) -> Operands:
        """(P)"""
        return self._gathered(
            place, lambda layer, at: layer.records.operands.take(at), _compact, Operands.take
        )

    def column(self, name: str, place: Longs) -> Floats:
        """One of the data's `columns`: (P,)."""
        return self._gathered(place, lambda layer, at: layer.records.columns[name][at], _concat, _take)

    def vectors(self, stage: str, place: Longs) -> Floats:
        """(P, d)"""
        return self._gathered(
            place, lambda layer, at: layer.vectors[stage].take(at, axis=0, mode="clip"), _concat, _take
        )

    def _gathered(
        self,
        place: Longs,
        take: Callable[[ItemLayer, Longs], T],
        followed: Callable[[T, T], T],
        reordered: Callable[[T, Longs], T],
    ) -> T:
        """What the layers have of some places, in their order."""
        if not len(place) or place.max() < self.bounds[1]:
            return take(self.layers[0], place)
        layer_of = np.searchsorted(self.bounds, place, side="right") - 1
        order = np.argsort(layer_of, kind="stable")
        found: T | None = None
        for n in np.unique(layer_of):
            part = take(self.layers[n], place[layer_of == n] - self.bounds[n])
            found = part if found is None else followed(found, part)
        assert found is not None
        back = np.empty(len(place), dtype=np.int64)
        back[order] = np.arange(len(place))
        return reordered(found, back)


def _compact(one: Listed, other: Listed) -> Listed:
    """Lists are views into those of a whole layer."""
    return one.compact().concat(other.compact())


def _concat(one: Floats, other: Floats) -> Floats:
    return np.concatenate((one, other))


def _take(values: Floats, index: Longs) -> Floats:
    taken: Floats = values[index]
    return taken
