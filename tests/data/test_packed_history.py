"""Histories of requests: items as they were at the request, and the weight of each event."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.ragged import Rows
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.history import read_history_items, read_query_rows
from corank.features.history_events import HistoryNeeds
from corank.features.kinds.count import CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from tests.support.packing import HOUR, LOG, World, only

ITEMS = pl.DataFrame(
    [
        (10, None, "x", [2]),
        (11, None, "y", None),
        (12, None, "x", []),
        (12, 20 * HOUR, "q", [1, 3]),
        (12, 30 * HOUR, "z", [5]),
        (13, None, "y", [1, 2]),
    ],
    schema={"item": pl.Int64, "valid_from": pl.Int64, "brand": pl.String, "tags": pl.List(pl.Int64)},
    orient="row",
)
"""Item rows 0 to 5. Codes: brands x 2, y 3, q 4, z 5; tags 1 is 2, 2 is 3, 3 is 4, 5 is 5."""
LATER = pl.DataFrame(
    [
        ("g", 2, 12, 26 * HOUR, "exposed", 1, "home", 0.0),
        ("g", 2, 10, 26 * HOUR, "exposed", 0, "home", 0.0),
        ("h", 2, 10, 51 * HOUR, "exposed", 0, "home", 0.0),
    ],
    schema=LOG.schema,
    orient="row",
)
"""User 2 clicked item 12 at 0 h and at 26 h, user 1 item 10 at 1 h and 12 at 25 h."""


def packed(folder: Path, half_life: str = "6h", pool: str = "mean") -> PackedDataset:
    def of(name: str, **settings: Any) -> IdsFeature:
        return IdsFeature.model_validate({"side": "user", "kind": "ids", "of": name} | settings)

    features = {
        "tab": IdFeature(side="context", kind="id"),
        "item": IdFeature(side="item", kind="id"),
        "brand": IdFeature(side="item", kind="id"),
        "tags": IdsFeature(side="item", kind="ids"),
        "clicked": of("item", event="click", half_life=half_life, pool=pool),
        "shown": of("item", last=2),
        "brands": of("clicked.brand", pool=pool),
        "clicked_tags": of("clicked.tags", pool=pool),
        "shown_tags": of("shown.tags", pool="sum"),
        "brand_seen": CountFeature(kind="count", of=["clicked.brand", "brand"], scale="none"),
    }
    world = World(folder, log=pl.concat([LOG, LATER]), items=ITEMS, users=None, features=features)
    return world.pack()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return packed(tmp_path_factory.mktemp("past"))


def rows_of(found: PackedDataset, split: str) -> Rows:
    shard = only(found, split)
    every = np.arange(len(shard))
    past = read_history_items(found, shard, every, HistoryNeeds.of(found.schema).for_rows)
    return read_query_rows(found, shard, every, past)


def lists(found: PackedDataset, split: str, name: str) -> list[list[int]]:
    values = rows_of(found, split).lists[found.schema.row_features("query").lists.index(name)]
    return [values.take(np.array([n])).flat().tolist() for n in range(len(values.length))]


def weights(found: PackedDataset, split: str, name: str) -> list[list[float]]:
    values = rows_of(found, split).lists[found.schema.row_features("query").lists.index(name)]
    assert values.weight is not None and values.weight.dtype == np.float32
    return [values.take(np.array([n])).flat_weight().tolist() for n in range(len(values.length))]  # type: ignore[union-attr]


# Requests are b 0 h, a 1 h · c 25 h of user 1, g 26 h of user 2 · d 49 h of 3, e 50 h of 1, h 51 h of 2


def test_items_are_as_of_the_request(world: PackedDataset) -> None:
    by_split = {}
    for split in ("train", "valid", "test"):
        shard = only(world, split)
        history = read_history_items(world, shard, np.arange(len(shard)), ["clicked"])["clicked"]
        by_split[split] = [history.take(np.array([n])).flat().tolist() for n in range(len(shard))]
    # item 12 was clicked at 0 h as row 2, is row 3 at 26 h and row 4 from 30 h on
    assert by_split == {"train": [[], []], "valid": [[0], [3]], "test": [[], [0, 4], [4, 4]]}


def test_attributes_are_as_of_the_request_and_lists_come_one_after_another(world: PackedDataset) -> None:
    assert lists(world, "valid", "brands") == [[2], [4]]
    assert lists(world, "test", "brands") == [[], [2, 5], [5, 5]]
    assert lists(world, "valid", "clicked_tags") == [[3], [2, 4]]
    assert lists(world, "test", "clicked_tags") == [[], [3, 5], [5, 5]]
    assert lists(world, "valid", "shown") == [[2, 4], [3]]
    assert lists(world, "valid", "shown_tags") == [[3], [2, 4]]  # item 11 has none
    assert lists(world, "test", "shown_tags") == [[], [5], [5, 3]]


def test_a_cross_meets_the_items_as_of_the_request(world: PackedDataset) -> None:
    assert only(world, "valid").cross.numbers[:, 0].tolist() == [0, 1, 0]  # of g item 12 has the brand it has
    assert only(world, "test").cross.numbers[:, 0].tolist() == [0, 1, 0]  # of e item 10 has x, as one clicked


def test_an_event_counts_by_its_age(world: PackedDataset) -> None:
    e = [2 ** (-49 / 6), 2 ** (-25 / 6)]
    h = [2 ** (-51 / 6), 2 ** (-25 / 6)]
    for name in ("clicked", "brands"):
        actual = weights(world, "test", name)
        assert [actual[0], *actual[1:]] == [[], pytest.approx(e), pytest.approx(h)]
    assert weights(world, "valid", "clicked") == [pytest.approx([2**-4]), pytest.approx([2 ** (-26 / 6)])]
    assert weights(world, "valid", "clicked_tags")[1] == pytest.approx([2 ** (-26 / 6)] * 2)
    assert HistoryNeeds.of(world.schema).for_rows == ("clicked", "shown"), (
        "`clicked` is weighted, `shown` has tags"
    )


# How they are pooled
