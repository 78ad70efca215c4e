"""Whether whole numbers are ids, of which each stands for itself, or amounts, whose order means something.

By name; by the shape of the values; by the rates of clicks on training days. Units are what has clicks of its own, an
item or a user: a value is told from the units that happen to have it only if several have it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from corank.core.reports import Report
from corank.core.types import Floats, Longs
from corank.datasets.clicked_lists import CLICK, ClickedLists

_ID_NAME = re.compile(r"(^|_)(id|uid|code)(_?\d+)?$|[a-z](Id|ID|Uid|Code)\d*$")
FEW = 20
"""Of so many values, at most, of candidates or requests, it does not matter: each is told from the others."""
BUCKETS = 20
"""Ranges of values, in their order, whose rates of clicks are compared, at most."""
PER_BUCKET = 5
"""Values in each, on average, at least."""
DRAWS = 40
"""Random orders that the one at hand is compared with."""
SURE = 4.0
"""Standard errors from a random order beyond which rates follow it, or differ between values."""
MOST_UNITS = 300_000
"""Pairs of value and unit that are looked at, at most."""
WIDE = 1e9
"""Distinct values spread evenly over such a range are hashes."""
EVEN = 0.05
"""How far the shares of hashes up to a value may be from even ones."""


@dataclass(frozen=True)
class Verdict:
    """What whole numbers are."""

    is_id: bool
    why: str


@dataclass(frozen=True)
class WholeNumbers:
    """Judges the columns of whole numbers of a log and its tables."""

    training: ClickedLists
    """The impressions of the training days."""
    user: str
    """The column of users."""
    report: Report = lambda line: None
    """Takes a line about each column."""
    _counts: dict[str, pl.DataFrame] = field(default_factory=dict)
    """Of the units of tables, by their column, once they are counted."""

    def is_id_in_log(self, name: str, along: bool = False) -> bool:
        """Whether a column of the log holds ids; `along` if it has an element a candidate."""
        values = pl.col(name).explode() if along else pl.col(name)
        distinct = self.training.impressions.select(values.unique()).collect(engine="streaming").to_series()
        unit = self.training.candidates if along else self.user
        return self._is_id(name, distinct, lambda: self._count(unit, name))

    def is_id_in_table(self, name: str, table: pl.DataFrame, key: str, of_items: bool) -> bool:
        """Whether a column of a table of items or users holds ids, whose key is the column `key`."""

        def count() -> pl.DataFrame:
            units = table.select(pl.col(key).cast(pl.String).alias("unit"), pl.col(name).alias("value"))
            unit = self.training.candidates if of_items else self.user
            if unit not in self._counts:
                self._counts[unit] = self._count(unit)
            return self._counts[unit].with_columns(pl.col("unit").cast(pl.String)).join(units, "unit")

        return self._is_id(name, table[name], count)

    def _is_id(self, name: str, values: pl.Series, counts: Callable[[], pl.DataFrame]) -> bool:
        if values.n_unique() <= FEW and not _ID_NAME.search(name):
            return False
        verdict = judge(name, values, counts)
        self.report(
            f"{name}: whole numbers, taken as {'ids' if verdict.is_id else 'a number'}: {verdict.why}"
        )
        return verdict.is_id

    def _count(self, unit: str, value: str | None = None) -> pl.DataFrame:
        """Count the candidates and clicks of each unit, and value of a column: `unit`, `value`, `shown`, `clicks`."""
        kept = {"unit": pl.col(unit)} | ({"value": pl.col(value)} if value else {})
        clicks = pl.col(CLICK).fill_null(False).sum()
        counted = self.training.rows(**kept).group_by(*kept).agg(shown=pl.len(), clicks=clicks)
        return counted.collect(engine="streaming")


def judge(name: str, values: pl.Series, counts: Callable[[], pl.DataFrame]) -> Verdict:
    """Judge a column of whole numbers.

    Args:
        name: of the column.
        values: all of them, or distinct ones.
        counts: makes a row of each pair of `value` and unit, with `shown` and `clicks`; called only if the name and
            the shape say nothing.
    """
    if _ID_NAME.search(name):
        return Verdict(True, "by its name")
    if is_hash(values):
        return Verdict(True, "its values are spread evenly over a wide range, as hashes are")
    return judge_rates(counts())


def is_hash(values: pl.Series) -> bool:
    """Whether distinct values are spread evenly over a range that is wide and begins at 0, or below."""
    distinct = np.sort(values.drop_nulls().unique().to_numpy().astype(np.float64))
    if len(distinct) < BUCKETS * PER_BUCKET:
        return False
    low, high = distinct[0], distinct[-1]
    share = (distinct - low) / (high - low)
    apart = np.abs(share - (np.arange(len(distinct)) + 0.5) / len(distinct)).max()
    return bool(high - low >= max(WIDE, 0.9 * high) and apart <= EVEN)


def judge_rates(counts: pl.DataFrame) -> Verdict:
    """Judge by rates of clicks: those of ids differ from value to value, those of amounts along the order.

    Both are compared with random orders: of the values, and of the units within ranges of values. Where neither is
    sure, numbers are amounts, since a network can learn little of either.
    """
    rows = counts.drop_nulls().filter(pl.col("shown") > 0).sort("value")
    rng = np.random.default_rng(0)
    if len(rows) > MOST_UNITS:
        chosen = rows["value"].unique(maintain_order=True)
        rows = rows.filter(
            pl.col("value").is_in(chosen.sample(fraction=MOST_UNITS / len(rows), seed=0).implode())
        )
    value = rows["value"].rle_id().to_numpy()
    distinct = int(value[-1]) + 1 if len(value) else 0
    ranges = min(BUCKETS, distinct // PER_BUCKET)
    if ranges < 2:
        return Verdict(False, "too few values were shown to tell")
    shown, clicks = rows["shown"].to_numpy().astype(float), rows["clicks"].to_numpy().astype(float)
    clicks -= shown * clicks.sum() / shown.sum()
    starts = np.flatnonzero(np.diff(value, prepend=-1))
    by_value = np.add.reduceat(shown, starts), np.add.reduceat(clicks, starts)
    by_order, order_errors = _compare(
        *by_value, lambda n: _ranges(n, ranges), [rng.permutation(distinct) for _ in range(DRAWS)]
    )
    place = _ranges(by_value[0], ranges)[value]
    within = [np.lexsort((rng.random(len(value)), place)) for _ in range(DRAWS)]
    by_itself, own_errors = _compare(shown, clicks, lambda n: value, within)
    if order_errors >= SURE and by_order > by_itself:
        return Verdict(False, f"clicks follow its order ({order_errors:.0f} standard errors from chance)")
    if own_errors >= SURE:
        why = f"clicks differ from value to value ({own_errors:.0f} standard errors), beyond any order"
        return Verdict(True, why)
    return Verdict(False, "clicks neither follow its order nor differ from value to value")


def _compare(
    shown: Floats, clicks: Floats, group: Callable[[Floats], Longs], orders: Sequence[Longs]
) -> tuple[float, float]:
    """Compare the squares that groups explain with those in random orders; groups follow from `shown`.

    Returns what they explain beyond the mean of random orders, also in standard errors of these.
    """

    def explained(n: Floats, c: Floats) -> float:
        groups = group(n)
        size = np.bincount(groups, n)
        return float((np.bincount(groups, c) ** 2 / np.maximum(size, 1)).sum())

    drawn = np.array([explained(shown[order], clicks[order]) for order in orders])
    beyond = explained(shown, clicks) - drawn.mean()
    return beyond, float(beyond / max(drawn.std(), 1e-9 * drawn.mean(), 1e-9))


def _ranges(shown: Floats, count: int) -> Longs:
    """Number ranges of values with as many rows each: (V,)."""
    middle = np.cumsum(shown) - shown / 2
    ranges: Longs = (middle * count / shown.sum()).astype(np.int64)
    return ranges
