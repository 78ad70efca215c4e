"""Embedding rows of an earlier packing for those of a new one, feature by feature and table by table.

Both packings have encoders of their own, so that a value's code may differ. Rows are matched by value: a value that
both know keeps its row; one that only the new packing knows begins as the row of unknown values.

Letters: N rows of the new table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Longs
from corank.features.encoders import Encoders
from corank.features.encoding import FIRST_KNOWN, UNKNOWN
from corank.features.input_layout import Layout

FRESH = -1
"""Stands for a row that begins as in a training of its own."""


@dataclass(frozen=True)
class RowMap:
    """For each row of a table the row of an earlier table that it begins as."""

    source: Longs
    """Rows of the earlier table, FRESH for none: (N,)."""
    kept: NDArray[np.bool_]
    """Whether the earlier row stands for the same value, so that what an optimiser knows of it holds: (N,)."""

    @classmethod
    def fresh(cls, rows: int) -> Self:
        """Map rows of which nothing is known."""
        return cls(np.full(rows, FRESH, dtype=np.int64), np.zeros(rows, dtype=np.bool_))


@dataclass(frozen=True)
class FeatureRows:
    """The rows of a feature that owns a table, and where they come from."""

    feature: str
    rows: RowMap
    """Within the feature's own rows; empty if the feature is gone."""
    earlier: int
    """Rows that it had; 0 if it is new."""
    reason: str = ""
    """Why it starts fresh, if it was there before."""

    @property
    def carried(self) -> bool:
        """Whether its rows come from earlier ones."""
        return bool((self.rows.source != FRESH).any())

    @property
    def kept(self) -> int:
        """Known values that keep their row."""
        return int(self.rows.kept[FIRST_KNOWN:].sum())

    @property
    def new(self) -> int:
        """Known values that had no row."""
        return len(self.rows.kept[FIRST_KNOWN:]) - self.kept

    @property
    def gone(self) -> int:
        """Values that had a row and have none now."""
        return max(self.earlier - FIRST_KNOWN, 0) - self.kept


@dataclass(frozen=True)
class PackingMap:
    """The rows of all tables of a new packing, by those of an earlier one."""

    earlier: Encoders
    new: Encoders

    @cached_property
    def layouts(self) -> tuple[Layout, Layout]:
        """The layouts of both packings, the earlier first."""
        return Layout(self.earlier.schema, self.earlier.sizes), Layout(self.new.schema, self.new.sizes)

    @cached_property
    def features(self) -> Mapping[str, FeatureRows]:
        """The features that own a table in either packing: those of the new one in its order, then those gone."""
        earlier, new = self.layouts
        gone = [name for name in earlier.offset if name not in new.offset]
        return {name: self._map(name) for name in new.offset} | {
            name: FeatureRows(name, RowMap.fresh(0), self.earlier.sizes[name]) for name in gone
        }

    def table(self, dim: int) -> RowMap:
        """Find the rows of the table of one dimension; see `RowMap`."""
        return self._tables[dim]

    @cached_property
    def _tables(self) -> dict[int, RowMap]:
        return {dim: self._join(dim) for dim in self.layouts[1].table_rows}

    def _join(self, dim: int) -> RowMap:
        """Map the rows of the table of one dimension: (N,) of its features, one after another."""
        earlier, new = self.layouts
        whole = RowMap.fresh(new.table_rows[dim])
        for name, first in new.offset.items():
            if new.schema.embedded()[name].width != dim:
                continue
            rows = self.features[name].rows
            at = slice(first, first + len(rows.source))
            whole.source[at] = np.where(
                rows.source == FRESH, FRESH, rows.source + earlier.offset.get(name, 0)
            )
            whole.kept[at] = rows.kept
        return whole

    def _map(self, name: str) -> FeatureRows:
        earlier, new = self.layouts
        rows, before = self.new.sizes[name], self.earlier.sizes.get(name, 0)
        fresh = RowMap.fresh(rows)
        if name not in earlier.offset:
            shared = earlier.schema.table_of(name) if name in earlier.schema.embedded() else None
            return FeatureRows(name, fresh, 0, f"it shared the rows of {shared}" if shared else "")
        width, was = new.schema.embedded()[name].width, earlier.schema.embedded()[name].width
        if width != was:
            return FeatureRows(name, fresh, before, f"dim {was} before, {width} now")
        earlier_rows = self.new.fitted[name].find_rows(self.earlier.fitted[name])
        if earlier_rows is None:
            return FeatureRows(name, fresh, before, "its codes stand for other values")
        source = earlier_rows.astype(np.int64)
        kept = source != UNKNOWN
        kept[UNKNOWN] = True
        return FeatureRows(name, RowMap(source, kept), before)
