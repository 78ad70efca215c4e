"""Features of an import of which training rows hold one value: training would reject them, so none is written."""

from collections.abc import Mapping

import polars as pl
import yaml

_READ = ("id", "ids", "bucket", "number")
"""Kinds that read a column."""
_NUMBERS = ("bucket", "number")


def drop_constants(
    lines: Mapping[str, str], training: pl.LazyFrame, kept: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Drop the features whose column has one value in training rows, and those that compare it.

    A number that is there or missing, and always the same, becomes an id.

    Args:
        lines: feature → its settings.
        training: the rows that train, of the log or of a table.
        kept: columns of ids, whose features stay.

    Returns:
        The features that stay, and the columns that are left out → why.
    """
    types, parsed = training.collect_schema(), {name: yaml.safe_load(text) for name, text in lines.items()}
    columns = {
        name: one.get("column", name)
        for name, one in parsed.items()
        if one["kind"] in _READ and one.get("column", name) in types and one.get("column", name) not in kept
    }
    counts = []
    for name, column in columns.items():
        values = pl.col(column).explode() if types[column].is_nested() else pl.col(column)
        counts.append(pl.struct(values.drop_nulls().n_unique(), missing=values.is_null().any()).alias(name))
    found = training.select(counts).collect(engine="streaming").row(0, named=True) if counts else {}
    left: dict[str, str] = {}
    stay = dict(lines)
    for name, column in columns.items():
        values, missing = found[name].values()
        if values == 0 or (values == 1 and not missing):
            left[column] = "training rows have one value" if values else "training rows have none"
            del stay[name]
            stay = {n: text for n, text in stay.items() if parsed[n].get("of") != name}
        elif values == 1 and parsed[name]["kind"] in _NUMBERS:
            settings = {"side": parsed[name]["side"], "kind": "id"} | {
                key: value for key, value in parsed[name].items() if key == "column"
            }
            stay[name] = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False).strip()
            stay = {n: text for n, text in stay.items() if parsed[n].get("of") != name}
    return stay, left
