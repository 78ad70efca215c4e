"""Texts that stand for nothing: which sound like it, and which few stand in a column of numbers."""

from collections.abc import Mapping

import polars as pl

from corank.core.yaml_names import quote
from corank.data.tables import Table

NOTHING = (
    r"(?i)^(?:[\W_]*(?:null|none|nil|n\W?a|nan|nat|missing|unknown|undefined|unspecified"
    r"|not\W?(?:available|applicable|set)|no\W?(?:data|value)|1\.#(?:qnan|ind)|无|空|未知|缺失|暂无)?[\W_]*|\\n)$"
)
"""What sounds like nothing: such a word, in any case and punctuation, or punctuation alone."""
FEW = 2
"""Texts among numbers, at most; a column with more of them is text."""
MOSTLY = 0.5
"""The share of numbers among the values of a column of numbers, at least."""


def is_text(kind: pl.DataType) -> bool:
    """Whether values of a type are texts."""
    return kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)


def find_among_numbers(counts: pl.DataFrame) -> dict[str, int]:
    """Find the texts of a column that holds numbers but for a few; none of another column.

    Args:
        counts: the distinct values of the column and their rows: `value`, text, and `rows`.
    """
    known = counts.drop_nulls("value")
    number = known["value"].cast(pl.Float64, strict=False).is_not_null()
    texts = known.filter(~number)
    rows = int(known["rows"].sum())
    if not 0 < len(texts) <= FEW or number.sum() <= FEW or texts["rows"].sum() > (1 - MOSTLY) * rows:
        return {}
    return dict(texts.sort("rows", descending=True).select("value", "rows").rows())


def name_among_numbers(table: Table, column: str) -> str:
    """The end of a message on a column that should hold numbers: the few texts in it, and what to do."""
    if not is_text(table.types[column]):
        return ""
    value = pl.col(column).cast(pl.String).alias("value")
    texts = find_among_numbers(table.collect(table.frame.group_by(value).agg(rows=pl.len())))
    if not texts:
        return ""
    named = f"data.nulls: [{', '.join(map(quote, texts))}]"
    then = f"write {named}" if table.format == "csv" else "write it as numbers, and nulls for these"
    return f"; it holds numbers but for {name_texts(texts)}; if these stand for missing values, {then}"


def name_texts(counts: Mapping[str, int]) -> str:
    """Name texts and their rows.

    Example:
        >>> name_texts({"NULL": 1200, "": 1})
        "'NULL' (1,200 rows), '' (1 row)"
    """
    named = [f"{text!r} ({n:,} row{'s' * (n != 1)})" for text, n in [*counts.items()][: FEW + 1]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more else "")
