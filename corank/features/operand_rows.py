"""The rows that derived features are computed from: of one side, or pairs of a query and an item.

Letters: N results · A rows of the side that has the list or the vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.hash_index import splitmix64
from corank.core.ragged import Ragged, Vectors
from corank.core.types import Doubles, Hashes, Longs
from corank.features.operands import Operands
from corank.features.schema import Placement, Schema
from corank.features.vocabulary import mix_hashes

Index = NDArray[np.integer]
SHORT = 128
"""Values of a list that are compared one by one."""


@dataclass(frozen=True)
class OperandRows:
    """The operands of N results: each is of a row of one side, or of a pair of a query and an item."""

    schema: Schema
    rows: Mapping[Placement, Operands]
    of: Mapping[Placement, Index | None]
    """The row of each result, (N,); None where result n is of row n."""
    count: int
    candidates: "OperandRows | None" = None
    """All candidates of the results' requests, if the results are pairs beyond them; None if the results are these."""

    @classmethod
    def alone(cls, schema: Schema, placement: Placement, rows: Operands) -> "OperandRows":
        """Result n is of row n of one placement."""
        return cls(schema, {placement: rows}, {placement: None}, rows.count)

    @classmethod
    def pairs(
        cls,
        schema: Schema,
        query: Operands,
        item: Operands,
        request_of: Index,
        item_of: Index | None,
        logged: Operands | None = None,
        candidates: "OperandRows | None" = None,
    ) -> "OperandRows":
        """Result n is of request `request_of[n]`, item row `item_of[n]`, n itself if None, and logged row n, if any."""
        rows: dict[Placement, Operands] = {"query": query, "item": item}
        of: dict[Placement, Index | None] = {"query": request_of, "item": item_of}
        if logged is not None:
            rows["cross"], of["cross"] = logged, None
        return cls(schema, rows, of, len(request_of), candidates)

    def take(self, index: Index) -> "OperandRows":
        """Select some of the results."""
        of = {placement: index if rows is None else rows[index] for placement, rows in self.of.items()}
        return OperandRows(self.schema, self.rows, of, len(index))

    def request(self) -> Index:
        """Return the row of the query of each result: (N,)."""
        of = self.of["query"]
        return np.arange(self.count) if of is None else of

    def _side(self, operand: str) -> tuple[Operands, Index | None]:
        placement = self.schema.placement(self.schema.history_of(operand))
        return self.rows[placement], self.of[placement]

    def key(self, operand: str) -> Hashes:
        """Return the hashes of an operand, 0 where missing: (N,)."""
        rows, of = self._side(operand)
        return rows.keys[operand] if of is None else rows.keys[operand][of]

    def number(self, operand: str) -> Doubles:
        """Return the numbers of an operand, NaN where missing, as for a number of pairs that were not logged: (N,)."""
        if self.schema.placement(operand) == "cross" and "cross" not in self.rows:
            return np.full(self.count, np.nan)
        rows, of = self._side(operand)
        return rows.numbers[operand] if of is None else rows.numbers[operand][of]

    def lists(self, operand: str) -> tuple[Ragged, Index]:
        """Return the lists of the rows that have the operand, and the row of each result: A lists, (N,)."""
        rows, of = self._side(operand)
        return rows.lists[operand], np.arange(self.count) if of is None else of

    def vectors(self, operand: str) -> tuple[Vectors, Index]:
        """Return the vectors of the rows that have the operand, and the row of each result: A vectors, (N,)."""
        rows, of = self._side(operand)
        return rows.vectors[operand], np.arange(self.count) if of is None else of

    def is_list(self, operand: str) -> bool:
        """Whether an operand is a list or a history."""
        return operand in self._side(operand)[0].lists

    def count_matches(self, listed: str, sought: str) -> Doubles:
        """Count how often the lists of an operand hold the value, or the values, of another: (N,).

        By a sorted table of (list, value), so that time grows with the lists and the results, not with their product.
        """
        lists, list_of = self.lists(listed)
        value, result_of = self._values(sought)
        if len(lists.length) == 1:
            entries = lists.values[lists.start[0] :][: lists.length[0]]
            matches = _count_in(entries, value)
        else:
            of = list_of if result_of is None else list_of[result_of]
            entries, times = np.unique(_within(lists.row_of(), lists.flat()), return_counts=True)
            if not len(entries):
                return np.zeros(self.count)
            query = _within(of, value)
            index = np.minimum(np.searchsorted(entries, query), len(entries) - 1)
            matches = np.where((entries[index] == query) & (value != 0), times[index], 0)
        counts = matches if result_of is None else np.bincount(result_of, matches, self.count)
        return counts.astype(np.float64, copy=False)

    def _values(self, operand: str) -> tuple[Hashes, Index | None]:
        """The values of an operand, 0 for none, and the result that each belongs to; None: value n to result n."""
        if not self.is_list(operand):
            return self.key(operand), None
        lists, of = self.lists(operand)
        lists = lists.take(of)
        return lists.flat(), lists.row_of()


def _count_in(entries: Hashes, value: Hashes) -> Longs:
    """Count how often each value is in one short list, 0 for value 0: (L,), (N,) → (N,)."""
    if len(entries) <= SHORT:  # all compared: a binary search guesses wrong at every step of every value
        equal = (entries[:, None] == value).view(np.uint8)
        return np.where(value == 0, 0, np.add.reduce(equal, axis=0, dtype=np.uint8))
    ordered = np.sort(entries)
    counts = ordered.searchsorted(value, "right") - ordered.searchsorted(value, "left")
    return np.where(value == 0, 0, counts)


def _within(row: Index, value: Hashes) -> Hashes:
    """A hash of row and value, 0 for value 0: (N,)."""
    return mix_hashes([splitmix64(row.astype(np.uint64)), value])
