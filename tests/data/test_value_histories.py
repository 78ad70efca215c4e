"""Histories of a table's values that are no items: what requests see of them, as packed, and which are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.features.kinds.count import CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.prior import PriorFeature
from tests.support.packing import FEATURES, HOUR, LOG, World, lists, only

ACTIONS = pl.DataFrame(
    [
        (1, -30, "price", 3),
        (1, 0, "brand", 1),
        (1, 1, "price", 2),
        (2, -9, "price", 3),
        (1, 24, "price", 2),
        (1, 25, "late", 9),
        (1, 26, "late", 9),
        (7, 0, "nobody", 4),
    ],
    schema=["who", "at", "filter", "order"],
    orient="row",
).with_columns(pl.col("at") * HOUR)
"""Of users 1 and 2, and of one who is not in the log; no items. Requests: b 0 h, a 1 h · c 25 h · d 49 h, e 50 h."""
TABLE = {"table": "actions.parquet", "user": "who", "time": "at"}


def values(**settings: Any) -> IdsFeature:
    return IdsFeature.model_validate({"side": "user", "kind": "ids", "events": "actions"} | settings)


def world(folder: Path, table: pl.DataFrame = ACTIONS, /, **features: Any) -> World:
    table.write_parquet(folder / "actions.parquet")
    return World(folder, features=FEATURES | features, data={"events": {"actions": TABLE}})


def seen(packed: PackedDataset, name: str) -> dict[str, list[list[Any]]]:
    """The values that each request reads, by the vocabulary; codes of unknown ones."""
    by_split = {}
    encoder, feature = packed.encoders.fitted[name], packed.schema.features[name]
    for split in packed.splits:
        shard = only(packed, split)
        every = np.arange(len(shard))
        past = read_history_items(packed, shard, every, HistoryNeeds.of(packed.schema).for_rows)
        rows = read_query_rows(packed, shard, every, past)
        codes = lists(rows.lists[packed.schema.row_features("query").lists.index(name)].compact())
        by_split[split] = [[feature.decode(encoder, code) for code in of_request] for of_request in codes]
    return by_split


def test_a_request_sees_the_values_before_it(tmp_path: Path) -> None:
    late = values(column="filter", lag="2h")
    packed = world(tmp_path, filter=values(), order=values(last=2), late=late).pack()
    # users 2 and 1, then 1, then 3, who did nothing, and 1; training ends at 24 h
    assert seen(packed, "filter") == {
        "train": [["price"], ["price", "brand"]],
        "valid": [["price", "brand", "price", "price"]],
        "test": [[], ["price", "brand", "price", "price", "unknown", "unknown"]],
    }
    assert seen(packed, "late")["valid"] == [["price", "brand", "price"]], "that of 24 h is an hour old"
    assert seen(packed, "order") == {"train": [[3], [3, 1]], "valid": [[2, 2]], "test": [[], ["unknown"] * 2]}


def test_it_is_compared_by_value(tmp_path: Path) -> None:
    features: dict[str, Any] = {
        "filter": values(),
        "sorted_by": IdFeature(side="context", kind="id", min_count=9),
        "same": CountFeature(kind="count", of=["filter", "sorted_by"], scale="none"),
    }
    tables = world(tmp_path, **features)
    tables.log = LOG.with_columns(sorted_by=pl.lit("late"))
    packed = tables.pack()
    placed = packed.schema.row_features("query").numbers
    numbers = {
        split: only(packed, split).query.numbers[:, placed.index("same")].tolist() for split in packed.splits
    }
    assert numbers == {"train": [0, 0], "valid": [0], "test": [0, 2]}, "also of what no vocabulary knows"


def test_a_table_may_hold_items_and_other_values(tmp_path: Path) -> None:
    past = IdsFeature.model_validate({"side": "user", "kind": "ids", "of": "item", "events": "actions"})
    beside = IdsFeature.model_validate(
        {"side": "user", "kind": "ids", "parallel_to": "past", "column": "filter"}
    )
    table = ACTIONS.with_columns(item=pl.lit(10))
    packed = world(tmp_path, table, past=past, beside=beside, filter=values()).pack()
    assert seen(packed, "beside") == seen(packed, "filter")
    assert {path.name for path in (tmp_path / "packed" / "state" / "events").iterdir()} == {
        "0.arrow",
        "0.filter.arrow",
    }


def test_a_table_without_items_has_no_history_of_items(tmp_path: Path) -> None:
    past = IdsFeature.model_validate({"side": "user", "kind": "ids", "of": "item", "events": "actions"})
    counted = PriorFeature(kind="prior", by=["user"], events="actions")
    for feature in (past, counted):
        tables = world(tmp_path, filter=values(), made=feature)
        assert "data.events.actions: no column 'item'" in tables.refused() and not tables.said


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (
            ACTIONS.with_columns(filter=pl.col("filter").replace("late", None)),
            "data.events.actions: column 'filter' is null in 2 rows; every event needs one",
        ),
        (
            ACTIONS.with_columns(filter=pl.lit(0.5)),
            "feature 'filter': expected whole numbers or text; received 0.5",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, table: pl.DataFrame, told: str) -> None:
    assert told in world(tmp_path, table, filter=values()).refused()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"event": "click"}, "event: the events are the rows of 'actions'"),
        ({"side": "context"}, "a history belongs to the user"),
        ({"input": False}, "drop input: false"),
    ],
)
def test_settings_of_other_histories_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        values(**settings)


def test_values_have_no_attributes(tmp_path: Path) -> None:
    brands = IdsFeature.model_validate({"side": "user", "kind": "ids", "of": "filter.brand"})
    with pytest.raises(
        ConfigError, match=r"'filter\.brand' is an attribute of a history, but 'filter' is none of items"
    ):
        world(tmp_path, filter=values(), brands=brands).pack()
