"""The table of readers: what each had read before, and the shrunk mean of its vectors.

Letters: U rows of readers · I articles · D dimensions.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from corank.core.lazy import lazy
from corank.core.types import Floats

sparse = lazy("scipy.sparse", "means of vectors")

INTEREST = "interest"
"""The column of mean vectors."""
SHRINK = 5
"""Zeros that are averaged with the vectors of what a reader had read: few clicks say little, so their mean is small."""


def list_readers(impressions: pl.LazyFrame, lists: Sequence[str]) -> pl.DataFrame:
    """List the readers of impressions, a row each, and one more wherever what they had read becomes another.

    Args:
        impressions: columns `user_id`, `time` and the lists.
        lists: columns of lists, the first of which holds the articles.

    Returns:
        `user_id`, `valid_from` (null for a reader's first row) and the lists.
    """
    rows = impressions.select("user_id", "time", *lists).sort("user_id", "time", maintain_order=True)
    first = pl.col("user_id").ne_missing(pl.col("user_id").shift())
    changed = first | pl.col(lists[0]).ne_missing(pl.col(lists[0]).shift())
    valid_from = pl.when(~first).then(pl.col("time")).alias("valid_from")
    return rows.with_columns(valid_from).filter(changed).select("user_id", "valid_from", *lists).collect()


def describe_reads(
    readers: pl.DataFrame, items: pl.DataFrame, item: str, columns: Sequence[str]
) -> pl.DataFrame:
    """Add what was read: `read_COLUMN`, the values of each article of `history`, and `interest`, if items have vectors.

    Args:
        readers: with `history`, lists of articles.
        items: a row an article, with `vector` if there are any.
        item: its column of ids.
        columns: columns of categories, of one value each.
    """
    read = readers.select("history").with_row_index("row").explode("history").drop_nulls()
    known = read.join(
        items.select(history=item, **{f"read_{c}": c for c in columns}), "history", maintain_order="left"
    )
    lists = known.group_by("row", maintain_order=True).agg(pl.col(f"read_{c}").drop_nulls() for c in columns)
    table = readers.with_row_index("row").join(lists, "row", how="left", maintain_order="left").drop("row")
    if "vector" in items.columns:
        table = table.with_columns(mean_vectors(readers["history"], items[item], items["vector"].to_numpy()))
    return table


def mean_vectors(histories: pl.Series, items: pl.Series, vectors: Floats) -> pl.Series:
    """Average the vectors of what each reader had read, each of length 1, with SHRINK zeros: null where there is none.

    Of n articles it is n / (n + SHRINK) of their mean, as the mean of a posterior is under a normal prior around 0.

    Args:
        histories: lists of articles: (U,).
        items: the articles of the vectors: (I,).
        vectors: (I, D).
    """
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norm > 0, norm, 1)).astype(np.float32)
    read = pl.DataFrame({"row": np.arange(len(histories)), "item": histories}).explode("item")
    known = read.join(
        pl.DataFrame({"item": items, "at": np.arange(len(items))}), "item", maintain_order="left"
    ).drop_nulls("at")  # an article that is not among the items does not count
    row, at = known["row"].to_numpy(), known["at"].to_numpy()
    ones = np.ones(len(row), dtype=np.float32)
    counts = np.bincount(row, minlength=len(histories))
    sums = sparse.csr_array((ones, (row, at)), shape=(len(histories), len(items))) @ unit
    means = pl.Series(INTEREST, sums / (counts + SHRINK)[:, None], dtype=pl.Array(pl.Float32, unit.shape[1]))
    return pl.select(pl.when(pl.Series(counts > 0)).then(means)).to_series().alias(INTEREST)
