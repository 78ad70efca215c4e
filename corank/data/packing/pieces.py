"""The part of each partition of the log for one thing (events, a prior), for steps that sort it by another key."""

from pathlib import Path

import polars as pl

from corank.core.arrays import write_frame
from corank.data.packing.workspace import write_beside


def write_piece(spill: Path, name: str, shard: str, rows: pl.DataFrame) -> None:
    """Write the rows of a partition, `shard`, under a name."""
    with write_beside(spill / name / f"{shard}.arrow") as partial:
        write_frame(partial, rows)


def write_counts(spill: Path, n: int, shard: str, counts: pl.DataFrame, since: int) -> None:
    """Write what the n-th prior counts of a partition, or of a range of events: rows of `CountedFeature.count`.

    Periods before `since`, ms UTC, are left out.
    """
    kept = counts.filter(pl.col("key") != 0, pl.col("period") >= since)
    write_piece(spill, f"prior{n}", shard, kept.sort("key"))


def find_pieces(spill: Path, name: str, partitions: int) -> list[Path]:
    """List what the partitions left under a name, in order; empty partitions left nothing."""
    paths = (spill / name / f"{n:05d}.arrow" for n in range(partitions))
    return [path for path in paths if path.is_file()]
