"""Histories of list columns and of events tables, as packed: what requests see, and which tables are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.features.kinds.ids import IdsFeature
from tests.support.packing import FEATURES, HOUR, LOG, World, lists, only

SEEN: dict[str, list[int] | None] = {"a": [12, 10], "b": [], "c": [10, 77, 12, 11], "d": None, "e": [13, 12]}
WHEN: dict[str, list[int] | None] = {"a": [0, 1], "b": [], "c": [24, 2, 3, 26], "d": None, "e": [0, 1]}
DWELL: dict[str, list[int] | None] = {"a": [5, 6], "b": [], "c": [7, 5, 6, 5], "d": None, "e": [8, 9]}
"""Of requests b 0 h, a 1 h · c 25 h · d 49 h, e 50 h; codes of items are 10 → 2, 11 → 4, 12 → 3, of others 1."""
CLICKS = pl.DataFrame(
    [(1, 13, -30, 3), (1, 10, 1, 5), (2, 12, -9, 5), (1, 99, 24, 6), (7, 12, 0, 4), (1, 88, 25, 4)],
    schema=["who", "item", "at", "dwell"],
    orient="row",
).with_columns(pl.col("at") * HOUR)
"""Events from before the log on, of users 1 and 2, and of one who is not in the log; item 88 is unknown."""
TABLE = {"table": "clicks.parquet", "user": "who", "time": "at"}


def history(**settings: Any) -> IdsFeature:
    return IdsFeature.model_validate({"side": "user", "kind": "ids"} | settings)


def listed(separator: str | None = None) -> pl.DataFrame:
    """The log with the lists, as texts if there is a separator."""

    def column(values: dict[str, list[int] | None], unit: int = 1) -> pl.Expr:
        scaled = {k: None if v is None else [n * unit for n in v] for k, v in values.items()}
        if separator is None:
            return pl.col("request").replace_strict(scaled, return_dtype=pl.List(pl.Int64))
        texts = {k: None if v is None else separator.join(map(str, v)) for k, v in scaled.items()}
        return pl.col("request").replace_strict(texts, return_dtype=pl.String)

    return LOG.with_columns(seen=column(SEEN), when=column(WHEN, HOUR), dwell=column(DWELL))


def world(folder: Path, separator: str | None = None, /, **features: IdsFeature) -> World:
    return World(folder, log=listed(separator), features=FEATURES | features)


def clicks(folder: Path, table: pl.DataFrame = CLICKS, /, **features: IdsFeature) -> World:
    table.write_parquet(folder / "clicks.parquet")
    tables = world(folder, **features)
    tables.data = {"events": {"clicks": TABLE}}
    return tables


def codes(packed: PackedDataset, name: str) -> dict[str, list[list[int]]]:
    by_split = {}
    for split in packed.splits:
        shard = only(packed, split)
        every = np.arange(len(shard))
        past = read_history_items(packed, shard, every, HistoryNeeds.of(packed.schema).for_rows)
        rows = read_query_rows(packed, shard, every, past)
        by_split[split] = lists(rows.lists[packed.schema.row_features("query").lists.index(name)].compact())
    return by_split


TIMED = {"of": "item", "column": "seen", "times": "when"}


@pytest.mark.parametrize("separator", [None, ","])
def test_a_list_with_times_is_sorted_and_cut_before_the_request(
    tmp_path: Path, separator: str | None
) -> None:
    past = history(**TIMED, separator=separator)
    late = history(**TIMED, separator=separator, lag="2h", last=2)
    daily = history(**TIMED, separator=separator, every="1d")
    bare = history(of="item", column="seen", separator=separator, last=3)
    brands = history(of="bare.brand")
    packed = world(tmp_path, separator, past=past, late=late, daily=daily, bare=bare, brands=brands).pack()
    # of c the event at 26 h is not known yet, and that at 24 h not two hours before
    assert codes(packed, "past") == {"train": [[], [3]], "valid": [[1, 3, 2]], "test": [[], [1, 3]]}
    assert codes(packed, "late") == {"train": [[], []], "valid": [[1, 3]], "test": [[], [1, 3]]}
    assert codes(packed, "daily") == {"train": [[], []], "valid": [[1, 3]], "test": [[], [1, 3]]}
    # without times a list is read as it is
    assert codes(packed, "bare") == {"train": [[], [3, 2]], "valid": [[1, 3, 4]], "test": [[], [1, 3]]}
    x, y = packed.encoders.codes("brand", pl.Series(["x", "y"]))
    assert codes(packed, "brands")["valid"] == [[0, x, y]], "the unknown item has no brand"


@pytest.mark.parametrize("separator", [None, " "])
def test_attributes_of_events_go_with_them(tmp_path: Path, separator: str | None) -> None:
    past = history(**TIMED, separator=separator, half_life="1h", last=2)
    packed = world(tmp_path, separator, past=past, dwell=history(parallel_to="past")).pack()
    vocabulary = packed.encoders.fitted["dwell"]
    five, six, seven = packed.encoders.codes(
        "dwell", pl.Series([5, 6, 7] if separator is None else ["5", "6", "7"])
    )
    assert vocabulary.size == 4, "5 and 6 of the training rows"
    assert codes(packed, "dwell") == {"train": [[], [five]], "valid": [[six, seven]], "test": [[], [1, 1]]}


def test_a_list_may_stand_in_the_table_of_users(tmp_path: Path) -> None:
    users = pl.DataFrame({"user": [1, 1, 2], "age": [1.0, 2.0, 3.0], "seen": [[10], [11, 12], [12]],
                          "valid_from": pl.Series([None, 20 * HOUR, None], dtype=pl.Int64)})  # fmt: skip
    tables = world(tmp_path, past=history(of="item", column="seen"))
    tables.users, tables.log = users, LOG
    packed = tables.pack()
    assert codes(packed, "past") == {"train": [[3], [2]], "valid": [[4, 3]], "test": [[], [4, 3]]}


def test_events_of_a_table_are_cut_before_the_request(tmp_path: Path) -> None:
    past = history(of="item", events="clicks")
    tables = clicks(
        tmp_path,
        past=past,
        late=history(of="item", events="clicks", lag="2h"),
        dwells=history(parallel_to="past", column="dwell"),
    )
    packed = tables.pack()
    assert codes(packed, "past") == {"train": [[3], [1]], "valid": [[1, 2, 1]], "test": [[], [1, 2, 1, 1]]}
    assert codes(packed, "late") == {"train": [[3], [1]], "valid": [[1, 2]], "test": [[], [1, 2, 1, 1]]}
    three, five, six, four = packed.encoders.codes("dwells", pl.Series([3, 5, 6, 4]))
    assert codes(packed, "dwells")["test"] == [[], [three, five, six, four]]
    assert any("past, late: 1 events are of items" in line for line in tables.said)


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"when": pl.lit([1, 2, 3])},
            "data.log: request='b': column 'seen' lists 0 events and 'when' 3; lists of one history must be of one "
            "length",
        ),
        (
            {"seen": pl.col("seen").cast(pl.List(pl.String))},
            "data.log: request='b': column 'seen' lists String, such as '12'; ids of items are Int64",
        ),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read_are_refused(
    tmp_path: Path, change: dict[str, pl.Expr], message: str
) -> None:
    tables = world(tmp_path, past=history(**TIMED))
    tables.log = tables.log.with_columns(**change)
    assert tables.refused() == message
