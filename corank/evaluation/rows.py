"""Rows of the table of figures: their columns and names, as a frame and as JSON; without what computes them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

Row = Mapping[str, Any]
"""A row of the table, by the names of COLUMNS."""
KEYS = ("stage", "label", "population", "group", "metric")
"""Columns that say what is measured; "" where one does not apply, as a cascade has no stage."""
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("run", "split", *KEYS), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n": pl.Int64,
    "better": pl.String,
    "random": pl.Float64,
}
"""The columns of the table. `value` is null where it is not defined; `low` and `high` bound its 95 % interval over
users; `n` rows, requests or users count; `random` is the value expected of a random order."""
EXPERIMENT_COLUMNS: dict[str, Any] = {
    **COLUMNS,
    **dict.fromkeys(("name", "base", "verdict"), pl.String),
    "rate": pl.Float64,
    "requests": pl.Int64,
    "seeds": pl.List(pl.Float64),
}
"""Columns of the tables of experiments: `base` is what a difference is to, and null of a figure; `rate` is of a
figure at one of several rates; `seeds` are the values of a mean."""
RELIABILITY, COUNTS = "reliability", "rows"
"""Populations of rows that no metric makes: bins of predicted and observed rates, and how much was measured."""


def name_row(row: Row) -> str:
    """The name of a row, by which a gate and trackers know it, such as `rank.exposed.click.auc`."""
    return ".".join(filter(None, (row[key] for key in ("stage", "population", "label", "metric"))))


def named_values(rows: Iterable[Row]) -> dict[str, float]:
    """The values of metrics by the names of their rows, with `.low` and `.high` behind for their bounds.

    What is not defined is left out.
    """
    figures = {
        name_row(row) + end: row[column]
        for row in rows
        if row["population"] not in (RELIABILITY, COUNTS)
        for column, end in (("value", ""), ("low", ".low"), ("high", ".high"))
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def to_frame(rows: Iterable[Row], columns: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """Rows as a frame of polars."""
    return pl.DataFrame(list(rows), schema=dict(COLUMNS if columns is None else columns))


def to_json(document: Mapping[str, Any]) -> str:
    """A document with its rows, as JSON text: a row a line."""
    lines = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in document["rows"])
    others = {key: value for key, value in document.items() if key != "rows"}
    behind = "".join(
        f",\n {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in others.items()
    )
    return f'{{\n "rows": [\n{lines}\n ]{behind}\n}}'
