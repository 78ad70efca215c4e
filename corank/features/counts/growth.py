"""Which values a vocabulary knows, from one packing to the next: admitted by count, evicted by age or by size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import polars as pl
from pydantic import PositiveInt, model_validator

from corank.core.settings import Duration, Settings
from corank.core.time import DAY, MILLISECOND

FAINT = 1 / 16
"""A decayed count below which a value outside the vocabulary is forgotten."""
GROWTH = ("min_count", "max_rows", "keep_days", "count_half_life")
"""The settings of growth: a vocabulary continues when they change."""


class VocabularySettings(Settings):
    """The settings of every kind with a vocabulary: which values have a row of their own."""

    min_count: PositiveInt = 1
    """Values counted less often in training are encoded as unknown, which so learns an embedding."""
    max_rows: PositiveInt | None = None
    """Values of the vocabulary, at most: the most frequent ones."""
    keep_days: PositiveInt | None = None
    """Values that were not seen for so many days before the end of training are left out."""
    count_half_life: Duration | None = None
    """`pack --from`: counts of earlier packings count half as much after this time; for ever in full unless given."""
    hash: PositiveInt | None = None
    """Rows that values are hashed to, in place of a vocabulary."""

    vocabulary_settings: ClassVar[frozenset[str]] = frozenset({*GROWTH, "hash"})

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        if self.count_half_life is not None and not self.count_half_life:
            raise ValueError("count_half_life must be above 0s")
        idle = [name for name in GROWTH[1:] if getattr(self, name) is not None]
        if self.hash is not None and idle:
            raise ValueError(f"{', '.join(idle)}: has no effect with hash, which knows no values; drop it")
        return self


def list_keep_days(features: Iterable[object]) -> list[int | None]:
    """List the `keep_days` of the features that have a vocabulary; None for one that keeps values for ever."""
    return [feature.keep_days for feature in features if isinstance(feature, VocabularySettings)]


def max_rows_of(feature: object) -> int | None:
    """Return the `max_rows` of a feature; None if it has none."""
    return feature.max_rows if isinstance(feature, VocabularySettings) else None


@dataclass(frozen=True)
class EarlierTally:
    """What an earlier packing knew of the values of a feature."""

    tally: pl.DataFrame
    """Columns `value`, `count` (decayed) and `seen` (ms UTC), of values in the vocabulary and outside."""
    known: pl.Series
    """The vocabulary, in the order of its codes."""
    until: int
    """When its training ended, ms UTC."""
    fixed: bool = False
    """Whether the vocabulary stays as it is."""


def merge_tally(
    new: pl.DataFrame, until: int, adds: bool, settings: VocabularySettings, earlier: EarlierTally | None
) -> pl.DataFrame:
    """Merge the counts of a packing with those of an earlier one.

    Args:
        new: columns `value`, `count` and `seen`.
        until: when training ends, ms UTC.
        adds: whether counts add up; those of a table, which holds the same rows again, do not.
        settings: of the feature.
        earlier: what an earlier packing knew.

    Returns:
        `value`, `count`, `seen`, ascending by value, without what is forgotten.
    """
    merged = new.with_columns(pl.col("count").cast(pl.Float64))
    if earlier is not None and len(earlier.tally):
        half = settings.count_half_life
        left = 2.0 ** (-(until - earlier.until) * MILLISECOND / half) if half else 1.0
        old = earlier.tally.with_columns(pl.col("count") * left)
        count = pl.col("count").sum() if adds else pl.col("count").max()
        both = pl.concat([merged, old]) if len(merged) else old
        merged = both.group_by("value").agg(count, pl.col("seen").max())
    if settings.keep_days is not None:
        merged = merged.filter(pl.col("seen") >= until - settings.keep_days * (DAY // MILLISECOND))
    if settings.count_half_life is not None:
        known = pl.col("value").is_in(earlier.known.implode()) if earlier and len(earlier.known) else False
        merged = merged.filter((pl.col("count") >= FAINT) | known)
    return merged.sort("value")


def choose_values(
    tally: pl.DataFrame, settings: VocabularySettings, earlier: EarlierTally | None
) -> pl.Series:
    """Choose the values of a vocabulary: kept ones in their order, then new ones by count, ties by value.

    Args:
        tally: as `merge_tally` makes it.
        settings: of the feature.
        earlier: what an earlier packing knew.
    """
    if earlier is not None and earlier.fixed:
        return earlier.known
    known = earlier.known.to_frame("value") if earlier else tally.select("value").clear()
    known = (
        known.with_row_index("code") if len(known) else tally.select("value").clear().with_row_index("code")
    )
    rows = tally.join(known, on="value", how="left")
    rows = rows.filter(pl.col("code").is_not_null() | (pl.col("count") >= settings.min_count))
    if settings.max_rows is not None:
        by_count = rows.sort("count", "code", "value", descending=[True, False, False], nulls_last=True)
        rows = by_count.head(settings.max_rows)
    ordered = rows.sort("code", "count", "value", descending=[False, True, False], nulls_last=True)
    return pl.concat(
        [ordered.filter(pl.col("code").is_not_null()), ordered.filter(pl.col("code").is_null())]
    )["value"]
