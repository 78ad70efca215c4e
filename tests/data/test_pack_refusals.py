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


def test_two_rows_of_an_item_that_differ_are_refused(world: World) -> None:
    world.items = pl.concat([ITEMS, ITEMS[:1], ITEMS[1:2].with_columns(brand=pl.lit("other"))])
    assert "data.items: item=12 has rows that differ; keep one" in world.refused()


Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda log: log.with_columns(click=pl.col("click") * 2),
            "data.labels.click: column 'click' holds 2; expected 0, 1, or null if unknown (at request='a', item=10)",
        ),
        (
            lambda log: log.with_columns(match=pl.col("match").fill_null(float("nan"))),
            "data.log: column 'match' is nan at request='a'; write null for a missing value",
        ),
        (
            lambda log: log.with_columns(level=pl.col("level").replace("ranked", "reranked")),
            "data.level: column 'level' holds 'reranked'; data.levels are retrieved, preranked, ranked, exposed "
            "(at request='e', item=10)",
        ),
        (
            lambda log: log.with_columns(user=pl.col("user").replace(3, None)),
            "data.log: column 'user' is null; every candidate needs one (at request='d', item=13)",
        ),
        (lambda log: log.rename({"click": "clicks"}), "data.log: no column 'click'; near ones: clicks"),
        (
            lambda log: log.with_columns(item=pl.col("item").replace(13, 77)),
            "data.items: 1 items of the log have no row, such as 77; add them",
        ),
        (
            lambda log: log.filter(pl.col("time") < 2 * DAY),
            "data.split: no row of the log is in 'test' (valid from 1970-01-02, test from 1970-01-03; UTC); "
            "the log is from 1970-01-01 00:00:00 UTC to 1970-01-02 01:00:00 UTC",
        ),
        (
            lambda log: log.with_columns(time=pl.lit("04/30/2026 8:15 AM")),
            "data.log: column 'time' is String; expected times: datetimes, dates or whole milliseconds, not text; "
            "it holds '04/30/2026 8:15 AM'; convert the texts first, such as by polars: "
            "pl.col('time').str.to_datetime()",
        ),
        (
            lambda log: log.with_columns(time=1_777_500_000),
            "data.split: no row of the log is in 'train' (valid from 1970-01-02, test from 1970-01-03; UTC); "
            "the log is from 1970-01-21 13:45:00 UTC to 1970-01-21 13:45:00 UTC; whole numbers are milliseconds, and "
            "these look like seconds: multiply 'time' by 1000",
        ),
    ],
)
def test_unsound_log_is_refused(world: World, change: Change, message: str) -> None:
    world.log = change(world.log)
    assert world.refused() == message


WIDE = "whole numbers have 64 bits at most: write Int64, or ids as text"


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("log", pl.col("item").cast(pl.Int128), f"'item' is Int128; {WIDE}"),
        ("log", pl.lit(2**63 + 7, pl.UInt64).alias("item"), "'item' "),
    ],
)
def test_numbers_of_more_than_64_bits_are_refused(
    world: World, table: str, change: pl.Expr, message: str
) -> None:
    world.truth = TRUTH
    setattr(world, table, getattr(world, table).with_columns(change))
    refused = world.refused()
    assert refused.startswith(f"data.{table}: column {message}") and "\n" not in refused


def test_truth_holds_probabilities_by_the_ids_of_the_log(world: World) -> None:
    for truth, message in (
        (
            TRUTH.with_columns(click=pl.struct("click")),
            "column 'click' is Struct({'click': Float64}); expected prob",
        ),
        (
            TRUTH.with_columns(pl.col("click") * float("inf")),
            "no 'click' of candidates of the log, such as item=",
        ),
        (
            TRUTH.with_columns(pl.col("item").cast(pl.String)),
            "column 'item' is String; expected Int64, as in the log",
        ),
        (TRUTH.filter(pl.col("item") != 11), "no 'click' of candidates of the log, such as item=11"),
        (TRUTH.rename({"click": "clicks"}), "no column 'click'; near ones: clicks"),
        (pl.concat([TRUTH, TRUTH.with_columns(click=0.5)]), "a candidate has two rows that differ"),
    ):
        world.truth = truth
        assert world.refused().startswith(f"data.truth: {message}")


def test_request_that_changes_within_itself_is_refused(world: World) -> None:
    changed = pl.when(pl.int_range(8) == 2).then(pl.lit("shop")).otherwise("tab").alias("tab")
    world.log = LOG.with_columns(changed)
    assert world.refused() == (
        "data.log: request request='a': column 'tab' changes from 'home' to 'shop' within the request; it must be the "
        "same for all its candidates"
    )


def test_candidate_twice_with_different_values_is_refused(world: World) -> None:
    world.log = pl.concat([LOG, LOG[2:3].with_columns(click=pl.lit(1, pl.Int64))])
    assert world.refused() == (
        "data.log: request request='a', item=11: column 'click' changes from 0 to 1 "
        "between two rows of one candidate; keep one"
    )


def test_weight_must_be_positive(world: World) -> None:
    world.log = LOG.with_columns(w=pl.lit(0.0))
    world.data["weight"] = "w"
    message = "data.weight: column 'w' holds 0.0; expected positive numbers (at request='a', item=10)"
    assert world.refused() == message


# Times in another unit than ms


def test_times_of_another_unit_are_refused(world: World) -> None:
    born = [1_728_000_000, 1_600_000_000, None, 5, -3]
    world.log = LOG.with_columns(pl.col("time") + 20_000 * DAY)  # October 2024
    world.data = {"split": {"valid": "2024-10-05", "test": "2024-10-06"}}
    world.items = ITEMS.with_columns(born=pl.Series(born, dtype=pl.Int64))
    world.features |= {
        "born": TimeFeature(kind="time", side="item"),
        "age": AgeFeature(kind="age", of="born"),
    }
    assert world.refused().startswith(
        "data.items: column 'born' holds -3 to 1728000000; features.born is of kind time and reads whole numbers as "
        "ms since 1970: these are all within four months of 1970, and the log begins at 2024-10-04 00:00:00 UTC; "
        "write ms (seconds times 1000, days times 86400000), datetimes or dates"
    )
