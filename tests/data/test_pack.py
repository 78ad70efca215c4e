"""Packing checked by hand: tables of a few rows, and all their packed values."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corank.core.time import NEVER
from corank.data.packed.shard import Shard
from corank.data.packing import derive
from corank.data.packing import pack as packing
from tests.support.packing import HOUR, ITEMS, LOG, TRUTH, USERS, World, lists, only
from tests.support.versioned_log import LEVELS, pack_versioned_log


def test_a_log_packed_by_hand(world: World) -> None:
    packed = world.pack()
    train, valid, test = (only(packed, split) for split in ("train", "valid", "test"))
    # requests in the order of time, candidates in that of the log
    assert train.keys["request"].to_list() == ["b", "a"]
    assert train.request_start.tolist() == [0, 2, 5]
    assert train.time.tolist() == [0, HOUR]
    assert packed.users.to_list() == [1, 2, 3]
    assert train.user.tolist() == [1, 0]
    items = packed.item_keys["item"]
    assert items.gather(train.item).to_list() == [10, 12, 10, 11, 12]
    assert train.level.tolist() == [0, 3, 3, 3, 1]
    assert train.labels["click"].tolist() == [-1, 1, 1, 0, -1]  # known where exposed alone
    assert train.cross.numbers.ravel().tolist() == [1, 2, 0.5, 0, 3.5]
    assert train.cross.ids.shape == (5, 0)
    assert train.weight is None
    assert valid.keys["request"].to_list() == ["c"]
    assert test.keys["request"].to_list() == ["d", "e"]
    assert test.labels["click"].tolist() == [-1, -1]
    assert (len(train), len(valid), len(test)) == (2, 1, 2)


def test_encoders_know_training_rows_alone(world: World) -> None:
    packed = world.pack()
    # training: user 1 three rows, 2 two; items 10 and 12 twice, 11 once, 13 never; home three, feed two
    assert packed.encoders.sizes == {"user": 4, "tab": 4, "item": 5, "brand": 5, "tags": 5}
    train, test = only(packed, "train"), only(packed, "test")
    assert train.query.ids.tolist() == [[3, 3], [2, 2]]
    assert test.query.ids.tolist() == [[1, 0], [2, 1]]  # user 3 unknown, no tab; tab `new` unknown
    assert packed.item_keys["item"].to_list() == [10, 11, 12, 13, 99]
    assert packed.items.ids.tolist() == [[2, 2], [4, 3], [3, 2], [1, 3], [1, 4]]
    assert lists(packed.items.lists[0]) == [[2], [], [], [3, 2], [4]]


def test_histories_hold_what_came_before(world: World) -> None:
    packed = world.pack()
    train, valid, test = (only(packed, split) for split in ("train", "valid", "test"))

    def clicked(shard: Shard) -> list[list[int]]:
        return lists(shard.query.lists[0])

    def shown(shard: Shard) -> list[list[int]]:
        return lists(shard.query.lists[1])

    assert clicked(train) == [[], []]
    assert clicked(valid) == [[2]]  # item 10
    assert clicked(test) == [[], [2, 3]]
    assert shown(valid) == [[2, 4]]  # items 10 and 11
    assert shown(test) == [[], [2, 4, 3]]


def test_users_without_a_row_are_missing_counted_and_told(world: World) -> None:
    packed = world.pack()
    assert only(packed, "test").query.numbers.tolist() == [[0], [20]]
    assert packed.manifest.dropped == {"duplicates": 0, "users_without_row": 1}
    assert "users: 1 of 3 users of the log have no row; features are missing" in world.said


def test_without_tables_of_items_and_users(world: World) -> None:
    world.items = world.users = None
    del world.features["brand"], world.features["tags"], world.features["age"]
    packed = world.pack()
    assert packed.item_keys["item"].to_list() == [10, 11, 12, 13]
    assert packed.items.ids.tolist() == [[2], [4], [3], [1]]


def test_rows_hold_from_valid_from_on(world: World) -> None:
    assert world.items is not None
    changed = pl.DataFrame({"item": [12, 12], "brand": ["p", "q"], "valid_from": [HOUR, 25 * HOUR + 1]})
    always = pl.DataFrame({"item": [10, 11, 13], "brand": ["x", "y", "y"]})
    world.items = pl.concat([always, changed], how="diagonal")
    world.users = USERS.with_columns(valid_from=pl.lit(datetime(1970, 1, 2, 1, tzinfo=UTC)))
    del world.features["tags"]
    packed = world.pack()
    assert packed.item_keys.rows()[2:5] == [(12, -(2**63)), (12, HOUR), (12, 25 * HOUR + 1)]
    assert only(packed, "train").item.tolist() == [0, 2, 0, 1, 3]  # at 0 h no version of 12, at 1 h the first
    assert only(packed, "valid").item.tolist() == [3]
    assert packed.items.ids[2].tolist() == [3, 0]  # its id is known, its brand missing
    assert [only(packed, s).query.numbers.ravel().tolist() for s in ("train", "valid")] == [[0, 0], [20]]
    ids, newest = packed.newest_items()
    assert (ids.to_list(), newest.tolist()) == ([10, 11, 12, 13], [0, 1, 4, 5])


def test_rows_hold_once_they_are_recorded(world: World) -> None:
    changed = pl.DataFrame(
        {
            "item": [12, 12],
            "brand": ["p", "q"],
            "valid_from": [HOUR, 2 * HOUR],
            "recorded_at": [HOUR, 25 * HOUR],
        }
    )
    world.items = pl.concat([ITEMS.filter(pl.col("item") != 12), changed], how="diagonal_relaxed")
    rows = world.pack().item_keys.filter(pl.col("item") == 12)
    assert rows["valid_from"].to_list() == [NEVER, HOUR, 25 * HOUR]


def test_weight_and_truth_are_kept(world: World) -> None:
    world.log = LOG.with_columns(w=pl.int_range(1, 9))
    world.data["weight"] = "w"
    world.truth = TRUTH.sample(fraction=1, shuffle=True, seed=3)
    train = only(world.pack(), "train")
    assert train.weight is not None
    assert train.weight.tolist() == [2, 4, 1, 3, 5]
    assert train.truth["click"].tolist() == pytest.approx([0.1, 0.2, 0.05, 0.9, 0.35])


def test_text_ids_key_of_two_columns_datetimes_and_no_level(world: World) -> None:
    world.log = LOG.drop("level").with_columns(
        pl.format("i{}", "item").alias("item"),
        pl.format("u{}", "user").alias("user"),
        pl.from_epoch("time", "ms"),
    )
    world.items = ITEMS.with_columns(pl.format("i{}", "item").alias("item"))
    world.users = None
    del world.features["age"]
    world.data |= {"level": None, "request": ["user", "time"]}
    packed = world.pack()
    train = only(packed, "train")
    assert train.request_key(1) == {"user": "u1", "time": datetime(1970, 1, 1, 1)}
    assert packed.users.to_list() == ["u1", "u2", "u3"]
    assert packed.item_keys["item"].gather(train.item).to_list() == ["i10", "i12", "i10", "i11", "i12"]
    assert train.level.tolist() == [3] * 5  # an exposure log
    assert train.labels["click"].tolist() == [-1, 1, 1, 0, 1]


def test_exact_duplicates_are_dropped_counted_and_told(world: World) -> None:
    extra = LOG.with_columns(unused=pl.int_range(8))
    world.log = pl.concat([extra, extra[2:4].with_columns(unused=pl.lit(70, pl.Int64))])
    packed = world.pack()
    assert packed.manifest.dropped["duplicates"] == 2
    assert "log: 2 exact duplicates of a candidate dropped" in world.said
    assert only(packed, "train").request_start.tolist() == [0, 2, 5]
    # events are counted once, too; a copy counts for the order of codes alone (item 12 is the first now)
    assert lists(only(packed, "valid").query.lists[1]) == [[3, 4]]


@pytest.mark.parametrize(("partition", "items"), [(2**20, 2**20), (40, 7)], ids=["at once", "by parts"])
def test_counts_of_items_are_those_of_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: int, items: int
) -> None:
    monkeypatch.setattr(packing, "PARTITION", partition)
    monkeypatch.setattr(derive, "ITEMS", items)
    packed = pack_versioned_log(tmp_path)[0]
    first = packed.item_keys["valid_from"].to_numpy() == NEVER
    ordinals = np.cumsum(first) - 1
    assert (packed.item_ordinals == ordinals).all() and len(ordinals) == 3 * first.sum()
    for split, shards in packed.splits.items():
        counts = packed.item_counts[split]
        item = ordinals[np.concatenate([shard.item for shard in shards])]
        level = np.concatenate([shard.level for shard in shards])
        for n, _ in enumerate(LEVELS):
            expected = np.bincount(item[level == n], minlength=int(first.sum()))
            assert (counts.candidates[n] == expected).all()
            assert counts.levels[n] == expected.sum() > 0
        assert (counts.seen == np.unique(item)).all()
        for levels in (None, {0, 2}):
            here = item if levels is None else item[np.isin(level, list(levels))]
            share = np.bincount(here, minlength=int(first.sum())) / len(here)
            asked = np.array([5, 0, 5, 12], dtype=np.int32)
            np.testing.assert_allclose(counts.shares(asked, levels), share[asked], rtol=1e-6)
