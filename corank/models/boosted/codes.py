"""What trees read: columns of dense inputs that come from tables of codes.

Such tables hold, in place of embeddings, the code of a value, and 1, which a list sums up to its length.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from corank.core.types import Floats
from corank.features.input_layout import Layout, TableSet
from corank.features.schema import PLACEMENTS, Placement
from corank.models.settings.trees import LEFT_OUT, MOST_CODES


@dataclass(frozen=True)
class CodeColumn:
    """A column of a dense input that trees read."""

    placement: Placement
    at: int
    """Its position in the dense input."""
    codes: int | None = None
    """How many codes there are, if it holds those of an id."""
    averaged: bool = False
    """Whether it is a mean of ones, 1 but for rounding, which depends on the list's length and on who adds up."""

    @property
    def categorical(self) -> bool:
        """Whether its codes are categories."""
        return self.codes is not None and self.codes <= MOST_CODES

    @property
    def left_out(self) -> bool:
        """Whether it has more codes than trees can use, so that none is grown on it."""
        return self.codes is not None and self.codes > LEFT_OUT


def code_columns(layout: Layout) -> list[CodeColumn]:
    """The columns that trees read of dense inputs from tables of codes: codes of ids, sums of lists, numbers."""
    return [column for placement in PLACEMENTS for column in _columns_of(layout, placement)]


def _columns_of(layout: Layout, placement: Placement) -> Iterator[CodeColumn]:
    placed, at = layout.schema.row_features(placement), 0
    for group in layout.groups[placement]:
        for feature in group.ids.tolist():
            codes = layout.sizes[layout.schema.table_of(placed.ids[feature])]
            yield CodeColumn(placement, at, codes)
            at += group.dim
        for listed in group.lists:
            if group.dim > 1:
                yield CodeColumn(placement, at + 1, averaged=listed.mean)
            at += group.dim
    for number in range(at, at + placed.width):
        yield CodeColumn(placement, number)


def code_tables(layout: Layout) -> TableSet:
    """The tables of codes, by dimension: (rows, d), a code in the first column, 1 in the second if there is one."""
    tables: dict[int | str, Floats] = {
        dim: np.zeros((rows, dim), dtype=np.float32) for dim, rows in layout.table_rows.items()
    }
    for name, first in layout.offset.items():
        rows = tables[layout.schema.embedded()[name].width][first : first + layout.sizes[name]]
        rows[:, 0] = np.arange(len(rows))
        rows[:, 1:2] = 1
    return tables
