"""Labels that depend or come late, positions and columns: packed by hand from a log of eight rows."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.data.packed.dataset import PackedDataset
from corank.features.kinds.ids import IdsFeature
from tests.support.configs import refused, shop
from tests.support.packing import LOG, World, lists, only

# b: 10 retrieved, 12 · a: 10, 11, 12 preranked · c: 12 · d: 13, not known · e: 10 ranked
ORDERS = LOG.with_columns(
    click=pl.Series([1, None, 1, 1, 1, 1, None, None]), order=pl.Series([1, None, 0, 1, 1, 1, 1, None])
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, log=ORDERS)


def ordering(world: World, click: dict[str, Any] | None = None, **order: Any) -> PackedDataset:
    labels = {"order": {"column": "order"} | order, "click": {"column": "click"} | (click or {})}
    world.data["labels"] = labels
    return world.pack()


def packed_labels(packed: PackedDataset, label: str) -> list[list[int]]:
    return [only(packed, split).labels[label].tolist() for split in ("train", "valid", "test")]


def test_a_label_given_another_is_known_where_that_happened(world: World) -> None:
    world.log = ORDERS.with_columns(click=pl.Series([1, None, 0, 1, 1, 1, None, None]))
    packed = ordering(world, given="click")
    # 11 was not clicked, 13 is unknown
    assert packed_labels(packed, "click") == [[-1, 1, 1, 0, -1], [1], [-1, -1]]
    assert packed_labels(packed, "order") == [[-1, 1, 1, -1, -1], [1], [-1, -1]]


def test_training_knows_what_was_mature_when_validation_began(world: World) -> None:
    """Which was at 24 h; training's rows are of 0 h and 1 h."""
    assert packed_labels(ordering(world, matures_after="23h"), "order")[0] == [-1, 1, 1, 0, -1]
    packed = ordering(world, matures_after="24h")
    assert packed_labels(packed, "order")[0] == [-1, 1, -1, -1, -1]
    assert packed_labels(packed, "click")[0] == [-1, 1, 1, 1, -1]


def test_later_rows_know_what_was_mature_when_the_log_was_read(world: World) -> None:
    """At 50 h, with its last row, unless `as_of` is set."""
    labels = packed_labels(ordering(world, matures_after="25h"), "order")
    assert labels[1:] == [[1], [-1, -1]]
    labels = packed_labels(ordering(world, matures_after="26h"), "order")
    assert labels[1:] == [[-1], [-1, -1]]
    world.data["as_of"] = "1970-01-04T03:00"  # 75 h
    labels = packed_labels(ordering(world, matures_after="26h"), "order")
    assert labels == [[-1, -1, -1, -1, -1], [1], [1, -1]]
    world.data["as_of"] = "1970-01-01T12:00"
    assert packed_labels(ordering(world, matures_after="12h"), "order")[0] == [-1, 1, -1, -1, -1]


def histories(world: World, **settings: Any) -> list[list[int]]:
    """Of requests c at 25 h, d at 49 h and e at 50 h, the items that their users ordered."""
    world.features["ordered"] = IdsFeature(side="user", kind="ids", of="item", event="order")
    packed = ordering(world, **settings)
    place = packed.schema.row_features("query").lists.index("ordered")
    return [part for split in ("valid", "test") for part in lists(only(packed, split).query.lists[place])]


def test_a_history_knows_of_a_late_label_once_it_was_mature(world: World) -> None:
    # codes: 10 is 2, 11 4, 12 3; user 1 ordered 10 at 1 h and 12 at 25 h
    assert histories(world) == [[2], [], [2, 3]]
    assert histories(world, matures_after="23h") == [[2], [], [2, 3]]
    assert histories(world, matures_after="24h") == [[], [], [2, 3]]  # known at 25 h, which is not before it
    assert histories(world, matures_after="25h") == [[], [], [2]]
    assert histories(world, matures_after="49h") == [[], [], []]
    assert histories(world, given="click", click={"matures_after": "24h"}) == [[], [], [2, 3]]


MISTAKEN = {
    "data.labels.order.given=share": "data: labels.order.given: no label 'share'; labels are click, order",
    "data.labels.order.given=order": "data: labels.order.given: goes round in a circle (order)",
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return shop(tmp_path)


@pytest.mark.parametrize("override", MISTAKEN)
def test_a_label_that_cannot_be_is_refused(path: Path, override: str) -> None:
    assert refused(path, override).startswith(MISTAKEN[override])


# Positions


def positioned(world: World, *positions: float | None) -> World:
    world.log = LOG.with_columns(place=pl.Series(positions))
    world.data["position"] = "place"
    return world


def test_positions_are_clipped_and_unknown_where_null(world: World) -> None:
    packed = positioned(world, 0.0, None, 5, 127, 128, 40_000, 1, None).pack()
    train = only(packed, "train").position
    assert train is not None and train.dtype == np.int16
    assert train.tolist() == [-1, 127, 0, 5, 127]
    assert [only(packed, s).position.tolist() for s in ("valid", "test")] == [[127], [1, -1]]  # type: ignore[union-attr]


def test_a_position_is_a_whole_number_from_0(world: World) -> None:
    message = positioned(world, 0.0, None, 5.0, 1.0, 2.0, 3.0, -1.0, None).refused()
    assert message == (
        "data.position: column 'place' holds -1.0; expected whole numbers from 0, "
        "or null where nothing was shown (at request='d', item=13)"
    )


# Columns that a value may name


@pytest.fixture
def priced(tmp_path: Path) -> World:
    return World(tmp_path, log=LOG.with_columns(bid=pl.int_range(8) + 0.5), data={"columns": ["bid"]})


def test_bids_are_packed_in_the_order_of_the_log(priced: World) -> None:
    packed = priced.pack()
    assert only(packed, "train").columns["bid"].tolist() == [1.5, 3.5, 0.5, 2.5, 4.5]
    assert only(packed, "test").columns["bid"].tolist() == [6.5, 7.5]


def test_a_candidate_without_a_bid_is_refused_and_named(priced: World) -> None:
    priced.log = priced.log.with_columns(pl.when(pl.int_range(8) != 2).then(pl.col("bid")).alias("bid"))
    assert priced.refused() == (
        "data.log: column 'bid' is None at request='a', item=11; a value needs a number for every candidate: "
        "write one, such as 0"
    )
    priced.data["columns"] = ["bids"]
    assert priced.refused().startswith(
        "data.columns: no column 'bids' in the log or the items; the log has request"
    )


def test_a_label_known_everywhere_is_known_of_all_levels(world: World) -> None:
    packed = ordering(world, known="everywhere")
    assert packed_labels(packed, "order") == [[-1, 1, 1, 0, 1], [1], [1, -1]]
    assert packed_labels(packed, "click") == [[-1, 1, 1, 1, -1], [1], [-1, -1]]
