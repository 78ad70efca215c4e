"""Impressions with lists of candidates as a row a candidate, with whether it was clicked."""

from dataclasses import dataclass, replace
from typing import Self

import polars as pl

ITEM, CLICK = "@item", "@click"
"""Columns of a candidate: its id, and whether it was clicked, null where that is unknown."""


@dataclass(frozen=True)
class ClickedLists:
    """Impressions, and the column that says which of their candidates were clicked."""

    impressions: pl.LazyFrame
    candidates: str
    """The column of candidates."""
    label: str
    """The column of lists of 0 and 1, an element a candidate, if `aligned`; else of the clicked candidates."""
    aligned: bool

    def tail(self, count: int) -> Self:
        """The last impressions."""
        return replace(self, impressions=self.impressions.tail(count))

    def rows(self, **kept: pl.Expr) -> pl.LazyFrame:
        """Make a row of each candidate: ITEM, CLICK, and what is kept of the impression; lists go along."""
        chosen = self.impressions.select(
            pl.col(self.candidates).alias(ITEM),
            pl.col(self.label).alias(CLICK),
            *(column.alias(name) for name, column in kept.items()),
        )
        types = chosen.collect_schema()
        along = [name for name in kept if isinstance(types[name], pl.List | pl.Array)]
        exploded = chosen.explode(ITEM, *along, *([CLICK] if self.aligned else []))
        click, among = pl.col(CLICK).cast(pl.Float64) == 1, pl.col(ITEM).is_in(pl.col(CLICK)).fill_null(False)
        return exploded.with_columns((click if self.aligned else among).alias(CLICK))
