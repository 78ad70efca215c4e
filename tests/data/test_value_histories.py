"""Histories of a table's values that are no items: what requests see of them, as packed, and which are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.prior import PriorFeature
from tests.support.packing import FEATURES, HOUR, World, lists, only

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


def test_a_table_without_items_has_no_history_of_items(tmp_path: Path) -> None:
    past = IdsFeature.model_validate({"side": "user", "kind": "ids", "of": "item", "events": "actions"})
    counted = PriorFeature(kind="prior", by=["user"], events="actions")
    for feature in (past, counted):
        tables = world(tmp_path, filter=values(), made=feature)
        assert "data.events.actions: no column 'item'" in tables.refused() and not tables.said
