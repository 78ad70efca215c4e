"""Columns of a log that tell what happened: known only after the click, a model that reads them is falsely good.

A column is judged by its values alone, against a label of the same rows. A few rows prove nothing: what an honest
column could show by chance is let pass, as is one that orders well but not nearly perfectly.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from corank.core.types import Doubles, Longs, Mask

TELLS = 0.97
"""A column that alone orders rows so well by a label, as AUC, was hardly known before."""
TELLS_NAMED = 0.8
"""The same of a column whose name says what happens after a click."""
ENOUGH = 20
"""Rows with the label and rows without that a verdict rests on, each, at least; and rows of a value."""
FEW = 20
"""A column with at most so many values tells by how often it happened at each, whatever their order."""
WITHIN = 0.93
"""Of the rows that an outcome marks, the share that has the label, at least."""
HONEST = 0.8
"""The share that an honest mark may have: four of five guests who return to an offer may take it."""
CHANCE = 0.01
"""An honest mark looks like an outcome at most so often."""

_TIMES = "time|duration|ms|s|secs?|seconds|ratio|percent|percentage|progress"
_HOW_LONG = f"(play|watch|view|read|listen|stay)(ed)?_({_TIMES})"
_AFTERWARDS = re.compile(f"(^|_)(dwell|scroll|{_HOW_LONG})(_|$)")
"""Not `watch_count` or `viewed_at`, which may be of the days before."""
_EPOCHS = {1: (1e9, 1e10), 1e3: (1e12, 1e13), 1e6: (1e15, 1e16), 1e9: (1e18, 1e19)}
"""Units a second → between which numbers are times since 1970 in that unit, of the years 2001 to 2286."""


def named_afterwards(name: str) -> bool:
    """Whether a column's name says what happens after a click."""
    return _AFTERWARDS.search(name.lower()) is not None


def where_label(label: str) -> str:
    """Say where a candidate's label is 1, for `why_outcome`."""
    return f"'{label}' is 1"


def where_request(label: str) -> dict[int, str]:
    """Say where a request has candidates whose label is 1: how many at least → words for `why_outcome`."""
    return {1: f"'{label}' is 1 for a candidate", 2: f"'{label}' is 1 for several candidates"}


def why_outcome(name: str, column: pl.Series, happened: Mask, where: str, moment: Longs | None = None) -> str:
    """Say why a column looks as if it was known only after what happened; blank if it does not.

    It does if what is not missing, not 0 or not usual lies where it happened; if it orders rows by it nearly perfectly;
    and if its time since the request does. Of lists the length is judged. That one value of several lies where it
    happened says nothing: some pages of an app show what was clicked before.

    Args:
        name: of the column.
        column: its values: (N,).
        happened: whether it happened, such as a click: (N,).
        where: says where it did, such as "'click' is 1".
        moment: when each row's request was, ms UTC: (N,).

    Example:
        >>> clicked = np.arange(1000) % 10 == 0
        >>> why_outcome("paid", pl.Series(np.where(clicked, 9.5, 0)), clicked, "'click' is 1")
        "it is 0 unless 'click' is 1"
    """
    if min(happened.sum(), (~happened).sum()) < ENOUGH:
        return ""
    values = _plain(column)
    if values is None:
        return ""
    missing = "empty" if column.dtype.is_nested() else "missing"
    if why := _Counts.of(values, happened).why(where, named_afterwards(name), missing):
        return why
    since = None if moment is None else _since(column, moment)
    why = "" if since is None else _Counts.of(since, happened).why(where, False, missing)
    return f"counted from the time of the request, {why}" if why else ""


def _plain(column: pl.Series) -> pl.Series | None:
    """Values as numbers or text, null where missing; of lists their length, null of none; None of other types."""
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        length = column.list.len() if isinstance(kind, pl.List) else column.arr.len()
        return length.set(length == 0, None)
    if kind.is_temporal():
        return column.to_physical()
    if isinstance(kind, pl.Decimal):
        return column.cast(pl.Float64)
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if kind.is_float():
        return column.fill_nan(None)
    if kind == pl.Boolean:
        return column.cast(pl.Int8)
    return column if kind.is_integer() or kind == pl.String else None


def _since(column: pl.Series, moment: Longs) -> pl.Series | None:
    """The seconds from each row's request to a time; None if the column holds no times."""
    kind = column.dtype
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        seconds = column.cast(pl.Datetime("ms")).to_physical() / 1000
    elif kind.is_integer() or kind.is_float():
        usual = column.cast(pl.Float64).fill_nan(None).replace(0, None).median()
        units = [u for u, (low, high) in _EPOCHS.items() if usual is not None and low <= usual < high]  # type: ignore[operator]
        if not units:
            return None
        seconds = column.cast(pl.Float64) / units[0]
    else:
        return None
    return seconds - pl.Series(moment) / 1000


class _Counts:
    """How many rows each value of a column has, and in how many of them it happened."""

    def __init__(self, values: pl.Series, rows: Longs, ones: Longs) -> None:
        self.values, self.rows, self.ones = values, rows, ones

    @classmethod
    def of(cls, values: pl.Series, happened: Mask) -> "_Counts":
        """Count the values of a column; missing ones count as a value."""
        table = pl.DataFrame({"value": values, "happened": happened})
        counted = table.group_by("value").agg(rows=pl.len(), ones=pl.col("happened").sum()).sort("value")
        return cls(
            counted["value"],
            counted["rows"].cast(pl.Int64).to_numpy(),
            counted["ones"].cast(pl.Int64).to_numpy(),
        )

    def why(self, where: str, named: bool, missing: str) -> str:
        """Say why the column looks like an outcome; blank if it does not."""
        known = self.values.is_not_null().to_numpy()
        if self._mostly(known):
            return f"it is {missing} unless {where}"
        for marked, says in self._marks(known, missing):
            rows, ones = int(self.rows[marked].sum()), int(self.ones[marked].sum())
            if self._lie_within(rows, ones):
                return f"{says} {where}" + (f", but for {rows - ones:,} of {rows:,} rows" * (rows > ones))
        auc = self._auc()
        if auc >= (TELLS_NAMED if named else TELLS):
            return f"alone it tells where {where}, with an AUC of {auc:.3f}"
        return ""

    def _marks(self, known: Mask, missing: str) -> Iterator[tuple[Mask, str]]:
        """Values that may be those of an outcome, and words for where it has them."""
        yield known, f"it is {missing} unless"
        usual = int(np.argmax(self.rows - self.ones))
        yield np.arange(len(known)) != usual, f"it is {_show(self.values[usual], missing)} unless"
        nothing = "" if self.values.dtype == pl.String else 0
        filled = (self.values != nothing).fill_null(False).to_numpy()
        yield filled, f"it is {_show(nothing, missing)} or {missing} unless"

    @property
    def _few(self) -> bool:
        return len(self.values) <= min(FEW, int(self.rows.sum()) // ENOUGH)

    def _mostly(self, marked: Mask) -> bool:
        """Whether values are those of most rows where it happened, and of hardly any other."""
        ones, others = self.ones, self.rows - self.ones
        return bool(ones[marked].sum() > 0.5 * ones.sum() and others[marked].sum() < 0.01 * others.sum())

    def _lie_within(self, rows: int, ones: int) -> bool:
        """Whether so many of some rows have the label that an honest mark would not show it by chance.

        Chernoff's bound of the chance that it does, at the share that an honest mark may have.
        """
        if rows < ENOUGH or ones < WITHIN * rows:
            return False
        share = ones / rows
        honest = max(HONEST, 1 - (1 - self.ones.sum() / self.rows.sum()) / 4)
        if share <= honest:
            return False
        distance = share * math.log(share / honest)
        distance += (1 - share) * math.log((1 - share) / (1 - honest)) if share < 1 else 0
        return bool(rows * distance >= -math.log(CHANCE))

    def _auc(self) -> float:
        """How well the values order rows where it happened above or below others: .5 to 1, ties counted half.

        A few values are ordered by how often it happened, text of many values not at all.
        """
        if self._few:
            order: Doubles = self.ones / self.rows
        elif self.values.dtype == pl.String:
            return 0.5
        else:
            order = self.values.cast(pl.Float64).fill_null(0.0).to_numpy()
        _, place = np.unique(order, return_inverse=True)
        ones = np.bincount(place, self.ones)
        others = np.bincount(place, self.rows - self.ones)
        pairs = ones * (np.cumsum(others) - others / 2)
        auc = float(pairs.sum() / (ones.sum() * others.sum()))
        return max(auc, 1 - auc)


def _show(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, str):
        return repr(value) if value else "blank"
    return f"{value:g}"
