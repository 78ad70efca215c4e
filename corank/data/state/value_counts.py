"""The counts of values that packed data keep for later packings: a file for each feature with a vocabulary."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from corank.core.arrays import read_frame, write_frame
from corank.core.errors import DataError
from corank.features.schema import Schema

STATE = "state"
"""The folder within packed data."""
COUNTS = "counts"
"""The folder of counts within STATE."""


def counts_file(packed: Path, schema: Schema, name: str) -> Path:
    """Return the file of a feature's counts, in packed data."""
    return packed / STATE / COUNTS / f"{list(schema.features).index(name)}.arrow"


def write_counts_of_values(packed: Path, schema: Schema, tallies: Mapping[str, pl.DataFrame]) -> None:
    """Write the counts of features' values: `value`, `count`, `seen` (ms UTC)."""
    (packed / STATE / COUNTS).mkdir(parents=True, exist_ok=True)
    for name, tally in tallies.items():
        write_frame(counts_file(packed, schema, name), tally.rechunk())


def read_counts_of_values(packed: Path, schema: Schema, name: str) -> pl.DataFrame | None:
    """Map the counts of a feature's values; None if it has no vocabulary. Raises DataError if they are damaged."""
    path = counts_file(packed, schema, name)
    if not path.is_file():
        return None
    try:
        frame = read_frame(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    if frame.columns != ["value", "count", "seen"]:
        raise DataError(f"{path}: expected columns value, count, seen; found {', '.join(frame.columns)}")
    return frame
