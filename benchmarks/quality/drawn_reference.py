"""What gradient boosting reads of a drawn log: all that a service could know, computed from the log by polars alone.

Rates are as of the hour before, what a user saw and clicked as of the request. Nothing is read of corank's pack but
which requests are in which split, and nothing of where a candidate stood in its list.
"""

from itertools import product

import numpy as np
import polars as pl

from benchmarks.quality.boosting import FlatSplit
from benchmarks.quality.drawn_logs import USERS, DrawnLog
from corank.data.packed.dataset import PackedDataset

HOUR, DAY = 3_600_000, 86_400_000
"""ms"""
SMOOTHING = 20.0
"""Candidates of the rate of all that are added to those of a key."""
OF_ITEMS = ("category", "brand")
CATEGORIES = (*USERS, *OF_ITEMS, "device")
"""Columns that trees take as categories."""
_OTHERS = {"request", "time", "ms", "user_id", "item_id", "clicked", "bought", "truth", "fair"}


def reference_splits(log: DrawnLog, packed: PackedDataset) -> dict[str, FlatSplit]:
    """Make the table of each split of a pack, in its order.

    Raises AssertionError if the pack has other candidates than the log, or in another order.
    """
    rows = derive_columns(log)
    names = [name for name in rows.columns if name not in _OTHERS]
    of_request = {at: frame for (at,), frame in rows.partition_by("ms", as_dict=True).items()}
    splits, label = {}, next(iter(packed.data.labels))
    for split in ("train", "valid", "test"):
        shards = packed.splits[split]
        frame = pl.concat([of_request[int(at)] for shard in shards for at in shard.time])
        logged = np.concatenate([shard.labels[label] for shard in shards])
        assert np.array_equal(frame["clicked"].to_numpy(), logged), f"'{split}' has its candidates otherwise"
        splits[split] = FlatSplit(
            names,
            frame.select(pl.col(names).cast(pl.Float32)).to_numpy(),
            np.empty((len(frame), 0), dtype=np.float32),
            frame["request"].to_numpy(),
            frame["user_id"].to_numpy(),
            logged,
            frame["truth"].to_numpy(),
        )
    return splits


def derive_columns(log: DrawnLog) -> pl.DataFrame:
    """Add to each exposure what was known before it."""
    rows = log.exposures.join(log.users, "user_id", maintain_order="left")
    rows = rows.join(log.items, "item_id", maintain_order="left")
    rows = rows.with_columns(
        pl.col("time").dt.epoch("ms").alias("ms"),
        pl.col(CATEGORIES).cast(pl.Categorical).to_physical(),
    )
    rows = rows.with_columns(
        pl.col("time").dt.hour().alias("hour"), pl.len().over("request").alias("candidates")
    )
    for keys in (
        ["item_id"],
        ["user_id"],
        *([name] for name in OF_ITEMS),
        *map(list, product((*USERS, "device"), OF_ITEMS)),
    ):
        rows = _add_rates(rows, keys, HOUR)
    rows = _add_rates(rows, ["item_id"], HOUR, DAY)
    for name in ("item_id", *OF_ITEMS):
        rows = _add_rates(rows, ["user_id", name], 1)
    rows = _add_ages(rows, ["user_id", "item_id"])
    ranked = ("price", "list_price", "popularity", "item_id rate", "item_id of a day rate")
    ranks = [pl.col(name).rank().over("request").alias(f"{name} rank") for name in ranked]
    discount = pl.col("price") / pl.col("list_price")
    return rows.with_columns(
        *ranks,
        (pl.col("price") / pl.col("price").median().over("request")).alias("relative"),
        discount.alias("discount"),
    )


def _add_rates(rows: pl.DataFrame, keys: list[str], every: int, window: int | None = None) -> pl.DataFrame:
    """Add how often a key was shown before, and its smoothed rate of clicks.

    Args:
        rows: in the order of time.
        keys: columns.
        every: what is known is of the last multiple of so many ms.
        window: only so many ms before that count.
    """
    name = " × ".join(keys) + (" of a day" if window else "")
    at = pl.col("ms") // every
    counts = (
        rows.group_by(*keys, at.alias("at"))
        .agg(pl.len().cast(pl.Int64).alias("shown"), pl.col("clicked").sum().cast(pl.Int64))
        .sort("at")
    )
    both = pl.col("shown", "clicked")
    if window is None:
        before = counts.with_columns(both.cum_sum().over(keys) - both)
    else:
        before = counts.rolling("at", period=f"{window // every}i", closed="left", group_by=keys).agg(
            both.sum()
        )
    overall = float(rows["clicked"].head(len(rows) // 2).to_numpy().mean())
    rate = (pl.col("clicked") + SMOOTHING * overall) / (pl.col("shown") + SMOOTHING)
    known = before.select(*keys, "at", pl.col("shown").alias(f"{name} shown"), rate.alias(f"{name} rate"))
    joined = rows.with_columns(at.alias("at")).join(known, [*keys, "at"], how="left", maintain_order="left")
    return joined.drop("at")


def _add_ages(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Add the hours since a key was seen last, and clicked last, and how often it was clicked."""
    events = rows.select(*keys, "ms", "clicked").unique([*keys, "ms"], keep="first", maintain_order=True)
    clicked = pl.when(pl.col("clicked") == 1).then("ms").forward_fill()
    known = events.with_columns(
        ((pl.col("ms") - pl.col("ms").shift(1).over(keys)) / HOUR).alias("hours since seen"),
        ((pl.col("ms") - clicked.shift(1).over(keys)) / HOUR).alias("hours since clicked"),
        (pl.col("clicked").cum_sum().over(keys) - pl.col("clicked")).alias("clicks of it"),
    )
    return rows.join(known.drop("clicked"), [*keys, "ms"], how="left", maintain_order="left")
