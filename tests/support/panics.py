"""A panic of polars, as one of its own faults raises it."""

import polars as pl


def panic(task: object = None) -> None:
    """Raise what polars raises where a column's key has a null character: no Exception."""
    pl.Series("seen", [[{"a\0b": 1}]]).to_arrow()
