"""The users and items of a packing, and when each was seen last."""

from pathlib import Path

import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.errors import DataError
from corank.core.time import DAY, MILLISECOND, NEVER
from corank.data.state.value_counts import STATE
from corank.features.counts.growth import list_keep_days
from corank.features.schema import Schema


def write_ids(packed: Path, part: str, ids: pl.DataFrame) -> None:
    """Write the ids of a `part`, users or items: `value`, ascending, and `seen` (ms UTC)."""
    (packed / STATE).mkdir(exist_ok=True)
    write_frame(packed / STATE / f"{part}.arrow", ids.rechunk())


def read_ids(packed: Path, part: str) -> pl.DataFrame:
    """Map what `write_ids` wrote. Raises DataError if it is damaged."""
    path = packed / STATE / f"{part}.arrow"
    try:
        return read_frame(path).select("value", "seen")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: damaged: {error}") from None


def keep_from(schema: Schema, column: str, until: int) -> int:
    """Return since when an id must have been seen to be kept, ms UTC; NEVER if ids are kept for ever.

    That is the longest `keep_days` of the features over its column.

    Args:
        schema: the features.
        column: of the id.
        until: when training ends, ms UTC.
    """
    features = [f for n, f in schema.features.items() if f.as_column and schema.column(n) == column]
    days = list_keep_days(features)
    kept = [n for n in days if n is not None]
    return NEVER if not days or len(kept) < len(days) else until - max(kept) * (DAY // MILLISECOND)


def join_ids(new: pl.DataFrame, earlier: pl.DataFrame, since: int, column: str) -> pl.DataFrame:
    """Join ids with those of an earlier packing that were seen since a time, ms UTC; ascending.

    Raises DataError if the column `column` was of another type then.
    """
    old = earlier.filter(pl.col("seen") >= since)
    if len(old) and old["value"].dtype != new["value"].dtype:
        raise DataError(
            f"data.log: column '{column}' is {new['value'].dtype}; it was {old['value'].dtype} in the earlier packing"
        )
    both = pl.concat([new, old]) if len(old) else new
    return both.group_by("value").agg(pl.col("seen").max()).sort("value")
