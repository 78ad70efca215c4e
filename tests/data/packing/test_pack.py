"""Packing checked by hand: tables of a few rows, and all their packed values."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.data import tables as row_ranges
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.shard import Shard
from corank.data.packing import pack as packing
from corank.features.kinds.id import IdFeature
from tests.support.packing import HOUR, ITEMS, LOG, TRUTH, USERS, World, lists, only


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


def test_min_count_of_the_item_counts_training_rows(world: World) -> None:
    world.features["item"] = IdFeature(side="item", kind="id", min_count=2)
    assert world.pack().items.ids[:, 0].tolist() == [2, 1, 3, 1, 1]


def test_users_without_a_row_are_missing_counted_and_told(world: World) -> None:
    packed = world.pack()
    assert only(packed, "test").query.numbers.tolist() == [[0], [20]]
    assert packed.manifest.dropped == {"duplicates": 0, "users_without_row": 1}
    assert "users: 1 of 3 users of the log have no row; their features are missing" in world.said


def test_user_column_of_the_log_serves_where_users_lacks_it(world: World) -> None:
    world.log = world.log.with_columns(mood=pl.col("user") * 10)
    world.features["mood"] = IdFeature(side="user", kind="id")
    assert only(world.pack(), "train").query.ids[:, 2].tolist() == [3, 2]


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


def test_partitions_hold_the_same_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _by_request(world.pack())
    for name, value in {"PARTITION": 2, "PARTITIONS": 4}.items():
        monkeypatch.setattr(packing, name, value)
    monkeypatch.setattr(row_ranges, "BATCH", 3)
    packed = world.pack()
    assert sum(map(len, packed.splits.values())) > 3
    assert _by_request(packed) == whole


def _by_request(packed: PackedDataset) -> dict[str, list[Any]]:
    candidates = {}
    for shard in (shard for shards in packed.splits.values() for shard in shards):
        for n, request in enumerate(shard.keys["request"]):
            part = slice(*shard.request_start[n : n + 2])
            histories = [lists(ragged.take(np.array([n]))) for ragged in shard.query.lists]
            candidates[request] = [
                *(array[part].tolist() for array in (shard.item, shard.level, shard.labels["click"])),
                shard.cross.numbers[part].tolist(),
                shard.query.ids[n].tolist(),
                shard.query.numbers[n].tolist(),
                histories,
            ]
    return candidates


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_candidate_is_kept_as_logged(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 30)
    each = np.repeat(np.arange(30), sizes)
    log = pl.DataFrame(
        {
            "request": each,
            "user": rng.integers(0, 5, 30)[each],
            "item": np.concatenate([rng.choice([10, 11, 12, 13], n, replace=False) for n in sizes]),
            "time": np.arange(30)[::-1][each] * 2 * HOUR + 1,
            "level": rng.choice(["retrieved", "preranked", "ranked", "exposed"], len(each)),
            "click": rng.integers(0, 2, len(each)),
            "tab": "home",
            "match": rng.integers(0, 99, len(each)).astype(float),
        }
    ).sample(fraction=1, shuffle=True, seed=seed % 1000)
    world = World(tmp_path_factory.mktemp("log"), log=log)
    packed = world.pack()
    kept = []
    for shard in (shard for shards in packed.splits.values() for shard in shards):
        request_of = np.repeat(np.arange(len(shard)), np.diff(shard.request_start))
        assert (np.diff(shard.time) >= 0).all()
        columns = [
            shard.keys["request"].gather(request_of),
            packed.users.gather(shard.user[request_of]),
            packed.item_keys["item"].gather(shard.item),
            pl.Series(shard.time[request_of]),
            pl.Series(packed.data.levels).gather(shard.level),
            pl.Series(shard.labels["click"]).cast(pl.Int64),
            pl.Series(shard.cross.numbers[:, 0].astype(float)),
        ]
        kept += list(zip(*(column.to_list() for column in columns), strict=True))
    unknown = pl.when(pl.col("level") == "exposed").then("click").otherwise(-1).alias("click")
    training = log.filter(pl.col("time") < packed.data.training_end())["match"]
    low, high = (training.min(), training.max()) if len(training) else (0, 0)
    clipped = pl.col("match").clip(pl.lit(low), pl.lit(high))
    expected = log.with_columns(unknown, clipped).select(
        "request", "user", "item", "time", "level", "click", "match"
    )
    assert sorted(kept) == sorted(expected.rows())
    assert packed.manifest.levels == dict(
        zip(packed.data.levels, _counts(log, packed.data.levels), strict=True)
    )


def _counts(log: pl.DataFrame, levels: list[str]) -> list[int]:
    return [int((log["level"] == level).sum()) for level in levels]
