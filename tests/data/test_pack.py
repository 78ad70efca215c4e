import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank.core.errors import ConfigError, DataError
from corank.core.ragged import Ragged
from corank.data import pack as packing
from corank.data.dataset import PackedDataset, Shard
from corank.data.pack import pack
from corank.data.pack_manifest import fingerprint
from corank.features.kinds import IdFeature, IdsFeature, NumberFeature
from corank.features.log_schema import DataSettings
from corank.features.schema import Schema

HOUR = 3_600_000
DAY = 24 * HOUR

# Three days of an hour-stamped log: request, user, item, time, level, click, tab, match
LOG = pl.DataFrame(
    [
        ("a", 1, 10, 1 * HOUR, "exposed", 1, "home", 0.5),
        ("b", 2, 10, 0 * HOUR, "retrieved", None, "feed", 1.0),
        ("a", 1, 11, 1 * HOUR, "exposed", 0, "home", None),
        ("b", 2, 12, 0 * HOUR, "exposed", 1, "feed", 2.0),
        ("a", 1, 12, 1 * HOUR, "preranked", 1, "home", 3.5),
        ("c", 1, 12, 25 * HOUR, "exposed", 1, "home", 0.0),
        ("d", 3, 13, 49 * HOUR, "exposed", None, None, 0.0),
        ("e", 1, 10, 50 * HOUR, "ranked", None, "new", 0.0),
    ],
    schema=["request", "user", "item", "time", "level", "click", "tab", "match"],
    orient="row",
)
ITEMS = pl.DataFrame(
    {"item": [13, 12, 11, 10, 99], "brand": ["y", "x", "y", "x", "z"], "tags": [[1, 2], [], None, [2], [3]]}
)
USERS = pl.DataFrame({"user": [1, 2, 8], "age": [20.0, 40.0, 30.0]})
TRUTH = LOG.select("request", "item", click=pl.col("match").fill_null(9) / 10)

FEATURES = {
    "user": IdFeature(side="user", kind="id"),
    "age": NumberFeature(side="user", kind="number", scale="none"),
    "clicked": IdsFeature(side="user", kind="ids", of="item", event="click", last=2),
    "shown": IdsFeature(side="user", kind="ids", of="item", last=5),
    "tab": IdFeature(side="context", kind="id"),
    "item": IdFeature(side="item", kind="id"),
    "brand": IdFeature(side="item", kind="id"),
    "tags": IdsFeature(side="item", kind="ids"),
    "match": NumberFeature(side="cross", kind="number", scale="none"),
}


@dataclass
class World:
    """Tables of a test, written when packed."""

    folder: Path
    log: pl.DataFrame = field(default_factory=LOG.clone)
    items: pl.DataFrame | None = field(default_factory=ITEMS.clone)
    users: pl.DataFrame | None = field(default_factory=USERS.clone)
    truth: pl.DataFrame | None = None
    features: dict[str, Any] = field(default_factory=lambda: dict(FEATURES))
    data: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def settings(self) -> DataSettings:
        plain: dict[str, Any] = {
            "log": "log.parquet",
            "request": ["request"],
            "user": "user",
            "item": "item",
            "time": "time",
            "level": "level",
            "labels": {"click": {"column": "click"}},
            "split": {"valid": "1970-01-02", "test": "1970-01-03"},
        }
        plain |= {n: f"{n}.parquet" for n in ("items", "users", "truth") if getattr(self, n) is not None}
        return DataSettings.model_validate(plain | self.data)

    def pack(self) -> PackedDataset:
        for name in ("log", "items", "users", "truth"):
            table = getattr(self, name)
            if table is not None:
                table.write_parquet(self.folder / f"{name}.parquet")
        out = self.folder / "packed"
        return pack(self.settings(), Schema(self.features), self.folder, out, self.said.append)

    def refused(self) -> str:
        with pytest.raises(DataError) as error:
            self.pack()
        assert not (self.folder / "packed").exists()
        assert not [path for path in self.folder.iterdir() if path.name.startswith(".")]
        return str(error.value)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[s : s + n].tolist() for s, n in zip(ragged.start, ragged.length, strict=True)]


def only(packed: PackedDataset, split: str) -> Shard:
    (shard,) = packed.splits[split]
    return shard


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
    clicked, shown = (lambda shard: lists(shard.query.lists[0])), (lambda shard: lists(shard.query.lists[1]))
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


def test_item_feature_without_items_is_refused(world: World) -> None:
    world.items = None
    with pytest.raises(ConfigError, match=r"features\.brand: an item feature is read from `data\.items`"):
        world.pack()


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


def test_two_rows_of_an_item_that_differ_are_refused(world: World) -> None:
    world.items = pl.concat([ITEMS, ITEMS[:1], ITEMS[1:2].with_columns(brand=pl.lit("other"))])
    assert "data.items: item=12 has rows that differ; keep one" in world.refused()


def test_weight_and_truth_are_kept(world: World) -> None:
    world.log = LOG.with_columns(w=pl.int_range(1, 9))
    world.data["weight"] = "w"
    world.truth = TRUTH.sample(fraction=1, shuffle=True, seed=3)
    train = only(world.pack(), "train")
    assert train.weight is not None
    assert train.weight.tolist() == [2, 4, 1, 3, 5]
    assert train.truth["click"].tolist() == pytest.approx([0.1, 0.2, 0.05, 0.9, 0.35])


def test_truth_must_know_every_candidate(world: World) -> None:
    world.truth = TRUTH.filter(pl.col("item") != 11)
    assert "data.truth: no 'click' for candidates of the log, such as item=11" in world.refused()


def test_truth_must_have_a_label(world: World) -> None:
    world.truth = TRUTH.rename({"click": "clicks"})
    assert "data.truth: no column 'click'; near ones: clicks" in world.refused()


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
    for name, value in {"PARTITION": 2, "BATCH": 3, "PARTITIONS": 3}.items():
        monkeypatch.setattr(packing, name, value)
    packed = world.pack()
    assert sum(map(len, packed.splits.values())) > 3
    assert _by_request(packed) == whole


def _by_request(packed: PackedDataset) -> dict[str, list[Any]]:
    found = {}
    for shard in (shard for shards in packed.splits.values() for shard in shards):
        for n, request in enumerate(shard.keys["request"]):
            part = slice(*shard.request_start[n : n + 2])
            histories = [lists(ragged.take(np.array([n]))) for ragged in shard.query.lists]
            found[request] = [
                *(array[part].tolist() for array in (shard.item, shard.level, shard.labels["click"])),
                shard.cross.numbers[part].tolist(),
                shard.query.ids[n].tolist(),
                shard.query.numbers[n].tolist(),
                histories,
            ]
    return found


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    expected = log.with_columns(unknown).select("request", "user", "item", "time", "level", "click", "match")
    assert sorted(kept) == sorted(expected.rows())
    assert packed.manifest.levels == dict(
        zip(packed.data.levels, _counts(log, packed.data.levels), strict=True)
    )


def _counts(log: pl.DataFrame, levels: list[str]) -> list[int]:
    return [(log["level"] == level).sum() for level in levels]


# What is refused

Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda log: log.with_columns(click=pl.col("click").cast(pl.Float64).fill_null(float("nan"))),
            "data.labels.click: column 'click' holds nan; expected 0, 1, or null if unknown",
        ),
        (
            lambda log: log.with_columns(click=pl.col("click") * 2),
            "data.labels.click: column 'click' holds 2; expected 0, 1, or null if unknown",
        ),
        (
            lambda log: log.with_columns(click=pl.lit("yes")),
            "data.log: column 'click' is String; expected 0, 1 or null, as data.labels.click reads it",
        ),
        (
            lambda log: log.with_columns(match=pl.col("match").fill_null(float("nan"))),
            "data.log: column 'match' is nan at request='a'; write null for a missing value",
        ),
        (
            lambda log: log.with_columns(match=pl.lit("high")),
            "data.log: column 'match' is String; expected numbers, as features.match is of kind number",
        ),
        (
            lambda log: log.with_columns(tab=pl.lit([1], pl.List(pl.Int64))),
            "data.log: column 'tab' is List(Int64); expected whole numbers or text, as features.tab is of kind id",
        ),
        (
            lambda log: log.with_columns(level=pl.col("level").replace("ranked", "reranked")),
            "data.level: column 'level' holds 'reranked'; data.levels are retrieved, preranked, ranked, exposed",
        ),
        (
            lambda log: log.with_columns(level=pl.col("level").replace("ranked", None)),
            "data.level: column 'level' holds None; data.levels are retrieved, preranked, ranked, exposed",
        ),
        (
            lambda log: log.with_columns(user=pl.col("user").replace(3, None)),
            "data.log: column 'user' is null in 1 rows; every candidate needs one",
        ),
        (lambda log: log.rename({"tab": "tabs"}), "data.log: no column 'tab'; near ones: tabs"),
        (lambda log: log.rename({"click": "clicks"}), "data.log: no column 'click'; near ones: clicks"),
        (
            lambda log: log.with_columns(item=pl.col("item").replace(13, 77)),
            "data.items: 1 items of the log have no row, such as 77; add them",
        ),
        (
            lambda log: log.with_columns(pl.format("i{}", "item").alias("item")),
            "data.items: column 'item' is Int64; expected String, as in the log",
        ),
        (
            lambda log: log.filter(pl.col("time") < 2 * DAY),
            "data.split: no row of the log is in 'test' (valid from 1970-01-02, test from 1970-01-03, UTC); "
            "the log is from 1970-01-01 00:00:00 UTC to 1970-01-02 01:00:00 UTC",
        ),
        (lambda log: log.head(0), "data.log: the log is empty"),
    ],
)
def test_unsound_log_is_refused(world: World, change: Change, message: str) -> None:
    world.log = change(world.log)
    assert world.refused() == message


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("tab", "shop", "column 'tab' changes from 'home' to 'shop'"),
        ("user", 2, "column 'user' changes from 1 to 2"),
        ("time", 7, "column 'time' changes from 3600000 to 7"),
    ],
)
def test_request_that_changes_within_itself_is_refused(
    world: World, column: str, value: object, shown: str
) -> None:
    changed = pl.when(pl.int_range(8) == 2).then(pl.lit(value)).otherwise(column).alias(column)
    world.log = LOG.with_columns(changed)
    rule = "within the request; it must be the same for all its candidates"
    assert world.refused() == f"data.log: request request='a': {shown} {rule}"


def test_candidate_twice_with_different_values_is_refused(world: World) -> None:
    world.log = pl.concat([LOG, LOG[2:3].with_columns(click=pl.lit(1, pl.Int64))])
    assert world.refused() == (
        "data.log: request request='a', item=11: column 'click' changes from 0 to 1 "
        "between two rows of one candidate; keep one"
    )


def test_weight_must_be_positive(world: World) -> None:
    world.log = LOG.with_columns(w=pl.lit(0.0))
    world.data["weight"] = "w"
    assert world.refused() == "data.weight: column 'w' holds 0.0; expected positive numbers"


def test_missing_file_is_refused(world: World) -> None:
    world.data["users"] = "people.parquet"
    assert "people.parquet: no such file" in world.refused()


# Whole or not at all


def test_folder_of_something_else_is_not_replaced(world: World) -> None:
    (world.folder / "packed").mkdir()
    (world.folder / "packed" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists, but is no packed data"):
        world.pack()
    assert (world.folder / "packed" / "thesis.txt").exists()


def test_packing_again_replaces_and_a_failure_leaves_the_old(world: World) -> None:
    first = world.pack()
    world.log = LOG.with_columns(tab=pl.lit("home"))
    second = world.pack()
    assert second.encoders.sizes["tab"] == 3
    assert first.manifest.fingerprint != second.manifest.fingerprint
    world.log = LOG.with_columns(item=pl.lit(77))
    with pytest.raises(DataError, match="have no row"):
        world.pack()
    assert PackedDataset.open(world.folder / "packed").encoders.sizes["tab"] == 3


def test_leftovers_of_a_killed_packing_are_removed(world: World) -> None:
    (world.folder / ".packed.packing" / "train").mkdir(parents=True)
    world.pack()
    assert not (world.folder / ".packed.packing").exists()


FULL = """
import resource, sys
from pathlib import Path
from corank.core.errors import DataError
from corank.data.pack import pack
from corank.features.kinds import IdFeature
from corank.features.schema import Schema
from corank.features.log_schema import DataSettings

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
data = DataSettings.model_validate_json((folder / "data.json").read_text())
try:
    pack(data, Schema({"item": IdFeature(side="item", kind="id")}), folder, folder / "packed")
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [600, 10_000, 40_000])
def test_full_disk_is_told_and_leaves_nothing(world: World, limit: int) -> None:
    rows = 5000
    log = pl.DataFrame({"request": range(rows), "user": 1, "item": 10, "level": "exposed", "click": 1})
    log = log.with_columns(time=pl.int_range(rows) * 3 * DAY // rows)
    log.write_parquet(world.folder / "log.parquet")
    world.items = world.users = None
    (world.folder / "data.json").write_text(world.settings().model_dump_json())
    command = [sys.executable, "-c", FULL, str(world.folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{world.folder}: File too large while packing, which takes about " in done.stdout
    assert sorted(path.name for path in world.folder.iterdir()) == ["data.json", "log.parquet"]


def test_fingerprint_is_of_settings_and_files(world: World) -> None:
    packed = world.pack()
    data, schema = world.settings(), Schema(world.features)
    mark = fingerprint(data, schema, world.folder)
    assert packed.manifest.fingerprint == mark
    os.utime(world.folder / "items.parquet", ns=(1, 1))
    assert fingerprint(data, schema, world.folder) != mark
    fewer = Schema({"item": FEATURES["item"]})
    assert fingerprint(data, fewer, world.folder) != fingerprint(data, schema, world.folder)
    with pytest.raises(DataError, match="packed from another config or other files: run `corank pack` again"):
        PackedDataset.open(packed.folder, expect=fingerprint(data, schema, world.folder))


def test_no_packed_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no packed data here; run `corank pack`"):
        PackedDataset.open(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 0}'])
def test_damaged_manifest_is_refused(world: World, content: str) -> None:
    manifest = world.pack().folder / "manifest.json"
    manifest.write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: (damaged|packed in format)"):
        PackedDataset.open(manifest.parent)


def test_array_of_another_size_is_refused(world: World) -> None:
    packed = world.pack()
    path = only(packed, "train").folder / "item.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"item\.npy: expected \d+ bytes, found \d+: run `corank pack` again"):
        PackedDataset.open(packed.folder)
    path.unlink()
    with pytest.raises(DataError, match=r"item\.npy: expected \d+ bytes, found no file"):
        PackedDataset.open(packed.folder)


def test_manifest_tells_what_is_packed(world: World) -> None:
    manifest = json.loads((world.pack().folder / "manifest.json").read_text())
    assert manifest["splits"]["train"] == [{"name": "00000", "requests": 2, "candidates": 5}]
    assert manifest["levels"] == {"retrieved": 1, "preranked": 1, "ranked": 1, "exposed": 5}
    assert manifest["data"]["labels"]["click"]["column"] == "click"
    assert "spill" not in str(manifest["files"])
