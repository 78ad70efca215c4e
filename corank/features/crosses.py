"""Crosses: what two features say together, computed by this code offline and online.

Letters: N results · A rows of the side that has the list.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from corank.core.ragged import Ragged
from corank.core.types import Doubles, Hashes, Index
from corank.features.kinds import (
    ContainsFeature,
    CountFeature,
    DerivedFeature,
    PairFeature,
    ProductFeature,
    RatioFeature,
)
from corank.features.operands import Operands
from corank.features.schema import Placement, Schema
from corank.features.vocabulary import mixed, splitmix64


@dataclass(frozen=True)
class Sides:
    """What N results are made of: rows of one side, or pairs of a row of each."""

    schema: Schema
    rows: Mapping[Placement, Operands]
    of: Mapping[Placement, Index | None]
    """The row of each result, (N,); None where result n is of row n."""
    count: int

    @classmethod
    def alone(cls, schema: Schema, placement: Placement, rows: Operands) -> "Sides":
        return cls(schema, {placement: rows}, {placement: None}, rows.count)

    @classmethod
    def pairs(
        cls, schema: Schema, query: Operands, item: Operands, request_of: Index, item_of: Index | None
    ) -> "Sides":
        return cls(
            schema, {"query": query, "item": item}, {"query": request_of, "item": item_of}, len(request_of)
        )

    def some(self, index: Index) -> "Sides":
        """Some of the results."""
        of = {placement: index if rows is None else rows[index] for placement, rows in self.of.items()}
        return Sides(self.schema, self.rows, of, len(index))

    def _side(self, operand: str) -> tuple[Operands, Index | None]:
        placement = self.schema.placement(self.schema.history_of(operand))
        return self.rows[placement], self.of[placement]

    def key(self, operand: str) -> Hashes:
        """(N,), 0 where missing."""
        rows, of = self._side(operand)
        return rows.keys[operand] if of is None else rows.keys[operand][of]

    def number(self, operand: str) -> Doubles:
        """(N,), NaN where missing."""
        rows, of = self._side(operand)
        return rows.numbers[operand] if of is None else rows.numbers[operand][of]

    def lists(self, operand: str) -> tuple[Ragged, Index]:
        """The lists of a side's rows, and the row of each result: (A) lists, (N,)."""
        rows, of = self._side(operand)
        return rows.lists[operand], np.arange(self.count) if of is None else of

    def is_list(self, operand: str) -> bool:
        return operand in self._side(operand)[0].lists


def crossed(feature: DerivedFeature, sides: Sides) -> Hashes | Doubles:
    """A cross of N results: of `pair` hashes, 0 where missing; of the others numbers, NaN where missing: (N,)."""
    first, second = feature.operands
    if isinstance(feature, PairFeature):
        return mixed([sides.key(first), sides.key(second)])
    if isinstance(feature, ProductFeature | RatioFeature):
        operation = np.multiply if isinstance(feature, ProductFeature) else np.divide
        with np.errstate(all="ignore"):
            found = operation(sides.number(first), sides.number(second))
        return np.where(np.isfinite(found), found, np.nan)
    assert isinstance(feature, ContainsFeature | CountFeature)
    times = _counted(*sides.lists(first), *_targets(second, sides), sides.count)
    return (times > 0).astype(np.float64) if isinstance(feature, ContainsFeature) else times


def _targets(operand: str, sides: Sides) -> tuple[Hashes, Index]:
    """The values that are looked for, and the result that each is looked for by."""
    if not sides.is_list(operand):
        return sides.key(operand), np.arange(sides.count)
    lists, of = sides.lists(operand)
    lists = lists.take(of)
    return lists.flat(), lists.row_of()


def _counted(lists: Ragged, list_of: Index, wanted: Hashes, result_of: Index, count: int) -> Doubles:
    """How often the list of a result holds the values that it looks for: (N,).

    By a sorted table of (list, value), so that time grows with the lists and the results, not with their product.

    Args:
        lists: A of them.
        list_of: of each result: (N,).
        wanted, result_of: values to look for, 0 for none, and the result of each.
    """
    held, times = np.unique(_within(lists.row_of(), lists.flat()), return_counts=True)
    if not len(held):
        return np.zeros(count)
    asked = _within(list_of[result_of], wanted)
    place = np.minimum(np.searchsorted(held, asked), len(held) - 1)
    found = np.where((held[place] == asked) & (wanted != 0), times[place], 0)
    return np.bincount(result_of, found, count).astype(np.float64, copy=False)


def _within(row: Index, value: Hashes) -> Hashes:
    """A value of a row's list, told from the same value of others: (N,), 0 for none."""
    return mixed([splitmix64(row.astype(np.uint64)), value])
