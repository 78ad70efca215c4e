"""Which columns of a log of lists look as if they were logged after the click."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from corank.core.types import Longs
from corank.data.outcomes import named_afterwards, where_label, where_request, why_outcome

SAMPLE = 200_000
"""Impressions that are looked at, at most; the last ones."""
_NAMED = "its name says what happens after a click"
_TIME = "@time"


@dataclass(frozen=True)
class LabelledLists:
    """Impressions, and what says whom of their candidates was clicked."""

    log: pl.LazyFrame
    """In the order of time."""
    candidates: str
    """The column of candidates."""
    time: str
    """The column of times."""
    labels: Mapping[str, bool]
    """Columns of lists: True of 0 and 1, an element a candidate; False of the clicked candidates."""

    def rows(self, names: Sequence[str]) -> pl.DataFrame:
        """Read columns of lists with an element a candidate, a row a candidate; with the labels, 1 or 0."""
        item, aligned = pl.col("@item"), [_of(label) for label, aligned in self.labels.items() if aligned]
        rows = self._last(names, pl.col(self.candidates).alias("@item")).explode("@item", *aligned, *names)
        return rows.with_columns(
            (pl.col(_of(label)) == 1 if aligned else item.is_in(_of(label)))
            .fill_null(False)
            .cast(pl.Int8)
            .alias(_of(label))
            for label, aligned in self.labels.items()
        )

    def impressions(self, names: Sequence[str]) -> pl.DataFrame:
        """Read columns with a value an impression; with the candidates, and of each label how many have it."""
        return self._last(names, pl.col(self.candidates)).with_columns(
            (pl.col(_of(label)).list.sum() if aligned else pl.col(_of(label)).list.len()).fill_null(0)
            for label, aligned in self.labels.items()
        )

    def why_late(self, name: str, rows: pl.DataFrame) -> str:
        """Say why a column of `rows` looks as if it was logged after the click; blank if it does not."""
        wheres = [(label, 1, where_label(label)) for label in self.labels]
        return _NAMED if named_afterwards(name) else self._why(name, rows, wheres)

    def why_late_request(self, name: str, impressions: pl.DataFrame) -> str:
        """Say the same of a column of `impressions`, of its values alone: guests may search by `length_of_stay`."""
        wheres = [(label, n, where) for label in self.labels for n, where in where_request(label).items()]
        return self._why(name, impressions, wheres)

    def why_late_list(self, name: str, impressions: pl.DataFrame) -> str:
        """Say the same of a column of lists of `impressions`; by its name, too."""
        return _NAMED if named_afterwards(name) else self.why_late_request(name, impressions)

    def _why(self, name: str, rows: pl.DataFrame, wheres: Sequence[tuple[str, int, str]]) -> str:
        moment: Longs = rows[_TIME].to_numpy()
        reasons = (
            why_outcome(name, rows[name], (rows[_of(label)] >= least).to_numpy(), where, moment)
            for label, least, where in wheres
        )
        return next(filter(None, reasons), "")

    def _last(self, names: Sequence[str], candidates: pl.Expr) -> pl.DataFrame:
        """Read the last impressions, with their times, ms UTC."""
        time = pl.col(self.time).cast(pl.Datetime("ms")).to_physical().alias(_TIME)
        labels = [pl.col(label).alias(_of(label)) for label in self.labels]
        return self.log.select(candidates, time, *labels, *names).tail(SAMPLE).collect()


def find_late_context(lists: LabelledLists, types: pl.Schema, used: set[str]) -> dict[str, str]:
    """Find columns that may be features of an impression, no lists, and tell what was clicked: name → why."""
    other = {name for name, kind in types.items() if kind.is_nested() or kind.is_temporal()}
    names = [name for name in types if name not in used | other]
    rows = lists.impressions(names)
    return {name: why for name in names if (why := lists.why_late_request(name, rows))}


def _of(label: str) -> str:
    return f"@label {label}"
