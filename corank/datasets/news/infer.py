"""Features by the types of columns: what a newcomer would write for a table that nobody has described."""

import json

import polars as pl

MOST_CATEGORIES = 1000
"""A column of whole numbers with more values is a number, not a category."""
RARE = 5
OFTEN = 100
"""An item that is shown in training less often gets no embedding of its own: its rates and columns say more."""


def describe_items(table: pl.DataFrame, item: str) -> dict[str, str]:
    """Describe a table of items: a feature for each column that can be one, in the config's words.

    Args:
        table: a row an item.
        item: its column of ids.

    Returns:
        Feature → its settings. Text of which every row has its own, times and structs are left out.
    """
    features = {item: f"{{side: item, kind: id, min_count: {OFTEN}}}"}
    for name, column in zip(table.columns, table.iter_columns(), strict=True):
        if name != item and (settings := _describe(column, "item")):
            features[free_name(name, features)] = name_column(name, settings)
    return features


def describe_context(types: pl.Schema, used: set[str]) -> dict[str, str]:
    """Describe the columns of a log that are neither keys, labels nor lists; `used` are left out."""
    features: dict[str, str] = {}
    for name, kind in types.items():
        if name in used:
            continue
        if kind == pl.String or kind == pl.Boolean or isinstance(kind, pl.Categorical | pl.Enum):
            features[free_name(name, features)] = name_column(
                name, f"side: context, kind: id, min_count: {RARE}"
            )
        elif kind.is_numeric():
            features[free_name(name, features)] = name_column(name, "side: context, kind: bucket")
    return features


def _describe(column: pl.Series, side: str) -> str | None:
    kind = column.dtype
    if isinstance(kind, pl.List | pl.Array):
        inner = kind.inner
        if inner.is_float():
            return None
        whole = inner.is_integer() or inner == pl.String
        return f"side: {side}, kind: ids, min_count: {RARE}" if whole else None
    if kind == pl.Boolean or isinstance(kind, pl.Categorical | pl.Enum):
        return f"side: {side}, kind: id"
    values = column.n_unique() if kind == pl.String or kind.is_integer() else 0
    if kind == pl.String:
        return f"side: {side}, kind: id, min_count: {RARE}" if values <= len(column) // 2 else None
    if kind.is_integer() and values <= MOST_CATEGORIES:
        return f"side: {side}, kind: id, min_count: {RARE}"
    return f"side: {side}, kind: bucket" if kind.is_numeric() else None


def free_name(name: str, taken: dict[str, str]) -> str:
    """A name for a feature: letters, digits and underlines, and not one that is taken."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    plain = plain if plain[:1].isalpha() else f"x{plain}"
    while plain in taken:
        plain += "_"
    return plain


def name_column(column: str, settings: str) -> str:
    """Write a feature's settings, with its column if that cannot be the feature's name."""
    name = free_name(column, {})
    return f"{{{settings}}}" if name == column else f"{{{settings}, column: {json.dumps(column)}}}"
