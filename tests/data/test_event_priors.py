"""Priors that count a table of events, as packed: by hand, alike for any cut of the table, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError
from corank.data import tables as row_ranges
from corank.data.packed.dataset import PackedDataset
from corank.data.packing.pack import pack_log
from corank.engine.base import open_engine
from corank.features.kinds.id import IdFeature
from corank.features.kinds.prior import PriorFeature
from corank.features.schema import Schema
from tests.support.packing import FEATURES, HOUR, ITEMS, World, only

CLICKS = pl.DataFrame(
    [
        (1, 13, -30),
        (1, 10, 1),
        (2, 12, -9),
        (1, 99, 24),
        (7, 12, 0),
        (9, 77, 3),
        (1, 12, 25),
        (1, 12, 26),
        (3, 10, 47),
        (3, 10, 48),
    ],
    schema=["who", "item", "at"],
    orient="row",
).with_columns(pl.col("at") * HOUR)
"""Events from before the log on, of users 1 to 3, of 7 who is in no table and 9 who is in that of users alone."""
TABLE = {"table": "clicks.parquet", "user": "who", "time": "at"}


def prior(*by: str, every: str = "1h", **settings: Any) -> PriorFeature:
    plain = {"kind": "prior", "by": list(by), "events": "clicks", "every": every, "scale": "none"}
    return PriorFeature.model_validate(plain | settings)


def world(folder: Path, table: pl.DataFrame = CLICKS, /, **features: Any) -> World:
    table.write_parquet(folder / "clicks.parquet")
    users = pl.DataFrame({"user": [1, 2, 3, 9], "age": [20.0, 40, 30, 1], "city": ["a", "b", "b", "b"]})
    tables = World(folder, users=users, features=FEATURES | features)
    tables.data = {"events": {"clicks": TABLE}}
    return tables


def counts(packed: PackedDataset, name: str, placement: Any) -> dict[str, list[int]]:
    """How many events each candidate's feature counts, by request; −1 for none."""
    by_request = {}
    at = packed.schema.row_features(placement).numbers_at[name]
    for split in packed.splits:
        shard = only(packed, split)
        rows = getattr(shard, placement).numbers[:, at]
        for n in range(len(shard)):
            first, end = shard.request_start[n : n + 2].tolist()
            values = rows[n : n + 1] if placement == "query" else rows[first:end]
            by_request[shard.request_key(n)["request"]] = (
                np.expm1(values).round().astype(int).flatten().tolist()
            )
    return by_request


# requests: b 0 h (10, 12) · a 1 h (10, 11, 12) · c 25 h (12) · d 49 h (13) · e 50 h (10)


def test_events_count_from_the_end_of_their_period_and_before_the_log(tmp_path: Path) -> None:
    packed = world(tmp_path, clicked_item=prior("item")).pack()
    assert counts(packed, "clicked_item", "snapshot") == {
        "b": [0, 1],
        "a": [0, 0, 2],
        "c": [2],
        "d": [1],
        "e": [3],
    }
    late = world(tmp_path, clicked_item=prior("item", lag="2h", every="1d", window="2d")).pack()
    # at 0 h, 24 h and 48 h: the event of −30 h counts at 0 h and is too old at 24 h
    assert counts(late, "clicked_item", "snapshot") == {
        "b": [0, 1],
        "a": [0, 0, 1],
        "c": [2],
        "d": [0],
        "e": [1],
    }


def test_keys_are_of_the_users_row_and_the_items_row_as_of_the_event(tmp_path: Path) -> None:
    tables = world(
        tmp_path,
        city=IdFeature(side="user", kind="id"),
        of_user=prior("user"),
        of_city=prior("city"),
        of_pair=prior("user", "brand"),
    )
    tables.items = pl.concat(
        [
            ITEMS.with_columns(valid_from=pl.lit(None, pl.Int64)),
            ITEMS.filter(pl.col("item") == 12).with_columns(brand=pl.lit("y"), valid_from=26 * HOUR),
        ],
        how="vertical_relaxed",
    )
    packed = tables.pack()
    assert counts(packed, "of_user", "query") == {"b": [1], "a": [1], "c": [3], "d": [2], "e": [5]}
    # user 9 is of city b, though the log does not have them; user 7 has none
    assert counts(packed, "of_city", "query") == {"b": [1], "a": [1], "c": [3], "d": [4], "e": [5]}
    # user 1 has clicked brand y by 13, x by 10 and 12, z by 99 and y by 12 from 26 h on
    assert counts(packed, "of_pair", "cross") == {"b": [1, 1], "a": [0, 1, 0], "c": [1], "d": [0], "e": [2]}


def test_the_files_do_not_depend_on_how_the_table_is_cut_nor_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = world(
        tmp_path, city=IdFeature(side="user", kind="id"), of_pair=prior("city", "item", half_life="5h")
    )
    whole = tables.pack().manifest.files
    monkeypatch.setattr(row_ranges, "BATCH", 3)
    assert tables.pack().manifest.files == whole
    with open_engine("pool", 2) as pool:
        packed = pack_log(
            tables.settings(), Schema(tables.features), tmp_path, tmp_path / "pool", engine=pool
        )
    assert packed.manifest.files == whole


# Refusals


def test_keys_that_events_do_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Schema(FEATURES | {"bad": prior("item", "tab")})
    assert str(error.value) == (
        "features.bad.by: 'tab' is a context feature, which the events of 'clicks' do not have; "
        "name features of items and users"
    )
    tables = world(tmp_path, mood=IdFeature(side="user", kind="id"), bad=prior("mood"))
    tables.log = tables.log.with_columns(mood=pl.lit("low"))
    with pytest.raises(ConfigError) as error:
        tables.pack()
    assert str(error.value) == (
        "features.bad.by: 'mood' is read from the log, and the events of 'clicks' do not have it; "
        "put the column 'mood' into the table of users, or drop the key"
    )
