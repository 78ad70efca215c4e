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
TYPES: dict[str, Any] = {
    **COLUMNS,
    **dict.fromkeys(("a", "b", "difference", "margin", "p", "fixed_low", "fixed_high", "rate"), pl.Float64),
    **dict.fromkeys(("n_b", "differ", "requests"), pl.Int64),
    **dict.fromkeys(("verdict", "name", "base", "where"), pl.String),
    "not_worse": pl.Boolean,
    "seeds": pl.List(pl.Float64),
}
"""All columns of tables of figures, of which a table has those of its rows.

Of two sides `a` and `b`: their values, their `difference`, `n` and `n_b`, the `margin` that a difference must exceed to
count, the `verdict` on a, and whether it is `not_worse`. Of intervals over time: `p`, and the interval of a single
look. Of experiments: `base` is what a difference is to, and null of a figure; `rate` is of a figure at one of several
rates; `seeds` are the values of a mean. Of agreement: how many `differ` by more than the margin, and `where` most.
"""
RELIABILITY, COUNTS, AGREEMENT = "reliability", "rows", "agreement"
"""Populations of rows that no metric makes: bins of predicted and observed rates, how much was measured, and how near
numbers are to each other."""
WORDS = {1: "better", -1: "worse", 0: "no difference shown"}
"""The verdict on the first of two sides by its sign."""


def judge(worst: float | None, best: float | None, margin: float = 0.0) -> str:
    """The verdict on the first of two sides: whether the bounds of its gain lie beyond a margin."""
    return WORDS[0 if worst is None or best is None else (worst > margin) - (best < -margin)]


def place(stage: str, label: str, population: str, group: str, metric: str) -> dict[str, str]:
    """The columns of a row that say what is measured."""
    return dict(zip(KEYS, (stage, label, population, group, metric), strict=True))


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


def to_frame(rows: Iterable[Row]) -> pl.DataFrame:
    """Rows as a frame of polars, with the columns that they have."""
    table = list(rows)
    named = frozenset[str]().union(*table) or COLUMNS.keys()
    return pl.DataFrame(table, schema={name: kind for name, kind in TYPES.items() if name in named})


def to_json(document: Mapping[str, Any]) -> str:
    """A document with its rows, as JSON text: a row a line."""
    lines = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in document["rows"])
    others = {key: value for key, value in document.items() if key != "rows"}
    behind = "".join(
        f",\n {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in others.items()
    )
    return f'{{\n "rows": [\n{lines}\n ]{behind}\n}}'
