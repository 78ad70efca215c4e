"""Logs that cannot be packed are refused by file, column and row."""

from collections.abc import Callable

import polars as pl
import pytest

from corank.core.errors import ConfigError
from corank.features.kinds.age import AgeFeature, TimeFeature
from tests.support.packing import DAY, ITEMS, LOG, TRUTH, World


def test_item_feature_without_items_is_refused(world: World) -> None:
    world.items = None
    with pytest.raises(ConfigError, match=r"features\.brand: an item feature is read from `data\.items`"):
        world.pack()


Change = Callable[[pl.DataFrame], pl.DataFrame]


def having(**columns: pl.Expr) -> Change:
    return lambda log: log.with_columns(**columns)


CLICK, TIME, ITEM = pl.col("click"), pl.col("time"), pl.col("item")
IN_A = pl.when(pl.int_range(8) == 2)
WIDE = "whole numbers have 64 bits at most"
UNSOUND: dict[str, tuple[Change, str, str]] = {
    "a label 2": (having(click=CLICK * 2), "data.labels.click: column 'click' holds 2", "request='a', item=10"),
    "nan": (having(match=pl.col("match").fill_null(float("nan"))), "data.log: column 'match' is nan", "write null"),
    "a level": (having(level=pl.col("level").replace("ranked", "odd")), "data.level: column 'level' holds 'odd'", "e"),
    "no user": (having(user=pl.col("user").replace(3, None)), "data.log: column 'user' is null", "item=13"),
    "no column": (lambda log: log.rename({"click": "clicks"}), "data.log: no column 'click'", "near ones: clicks"),
    "no row": (having(item=ITEM.replace(13, 77)), "data.items: 1 items of the log have no row", "77; add them"),
    "no test": (lambda log: log.filter(TIME < 2 * DAY), "data.split: no row of the log is in 'test'", "01:00:00 UTC"),
    "text": (having(time=pl.lit("04/30/2026 8:15 AM")), "data.log: column 'time' is String", "str.to_datetime()"),
    "seconds": (having(time=pl.lit(1_777_500_000)), "data.split: no row of the log is in 'train'", "by 1000"),
    "128 bits": (having(item=ITEM.cast(pl.Int128)), "data.log: column 'item' is Int128", WIDE),
    "64 bits": (having(item=pl.lit(2**63 + 7, pl.UInt64)), "data.log: column 'item' ", ""),
    "two tabs": (having(tab=IN_A.then(pl.lit("shop")).otherwise("tab")),
                 "data.log: request request='a': column 'tab' changes from 'home' to 'shop'", "must be the same"),
    "two clicks": (lambda log: pl.concat([log, log[2:3].with_columns(click=pl.lit(1, pl.Int64))]),
                   "data.log: request request='a', item=11: column 'click' changes from 0 to 1", "keep one"),
}  # fmt: skip
"""By case: the change, where it is refused, and the remedy or the row."""


@pytest.mark.parametrize("case", UNSOUND)
def test_unsound_log_is_refused(world: World, case: str) -> None:
    change, where, remedy = UNSOUND[case]
    world.log = change(world.log)
    message = world.refused()
    assert message.startswith(where) and remedy in message and "\n" not in message


def test_two_rows_of_an_item_that_differ_are_refused(world: World) -> None:
    world.items = pl.concat([ITEMS, ITEMS[:1], ITEMS[1:2].with_columns(brand=pl.lit("other"))])
    assert "data.items: item=12 has rows that differ; keep one" in world.refused()


ENDLESS = "no 'click' of candidates of the log, such as item="
TRUTHS: dict[str, pl.DataFrame] = {
    "column 'click' is Struct({'click': Float64}); expected prob": TRUTH.with_columns(
        click=pl.struct("click")
    ),
    ENDLESS: TRUTH.with_columns(CLICK * float("inf")),
    "column 'item' is String; expected Int64": TRUTH.with_columns(ITEM.cast(pl.String)),
    f"{ENDLESS}11": TRUTH.filter(ITEM != 11),
    "no column 'click'; near ones: clicks": TRUTH.rename({"click": "clicks"}),
    "a candidate has two rows that differ": pl.concat([TRUTH, TRUTH.with_columns(click=0.5)]),
}


@pytest.mark.parametrize("message", TRUTHS)
def test_truth_holds_probabilities_by_the_ids_of_the_log(world: World, message: str) -> None:
    world.truth = TRUTHS[message]
    assert world.refused().startswith(f"data.truth: {message}")


def test_weight_must_be_positive(world: World) -> None:
    world.log, world.data["weight"] = LOG.with_columns(w=pl.lit(0.0)), "w"
    assert world.refused().startswith("data.weight: column 'w' holds 0.0; expected positive numbers")


def test_times_of_another_unit_are_refused(world: World) -> None:
    born = pl.Series([1_728_000_000, 1_600_000_000, None, 5, -3], dtype=pl.Int64)
    world.log = LOG.with_columns(TIME + 20_000 * DAY)  # October 2024
    world.data = {"split": {"valid": "2024-10-05", "test": "2024-10-06"}}
    world.items = ITEMS.with_columns(born=born)
    world.features |= {
        "born": TimeFeature(kind="time", side="item"),
        "age": AgeFeature(kind="age", of="born"),
    }
    message = world.refused()
    assert message.startswith(
        "data.items: column 'born' holds -3 to 1728000000; features.born is of kind time"
    )
    assert "write ms (seconds times 1000" in message
