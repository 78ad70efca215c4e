"""Refreshing by a log small enough to count by hand, and what is refused."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.features.encoders import split_record
from corank.features.kinds.age import AgeFeature, TimeFeature
from corank.features.kinds.count import CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.kinds.prior import PriorFeature
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from tests.support.cases import bare_funnel
from tests.support.packing import DAY, HOUR, ITEMS, LOG, USERS, World

pytestmark = pytest.mark.slow

# A log small enough to count by hand

NEWER = pl.DataFrame(
    [
        ("d", 3, 13, 49 * HOUR, "exposed", None, None, 0.0),
        ("f", 2, 10, 60 * HOUR, "exposed", 0, "feed", 0.0),
        ("f", 2, 13, 60 * HOUR, "exposed", 1, "feed", 0.0),
        ("f", 2, 11, 60 * HOUR, "ranked", 1, "feed", 0.0),
        ("g", 1, 12, 72 * HOUR, "exposed", 1, "home", 0.0),
    ],
    schema=LOG.schema,
    orient="row",
)
"""The snapshot is at 48 h: item 10 was clicked once of once, 11 never of once, 12 twice of twice."""


@pytest.fixture
def small(tmp_path: Path) -> World:
    world = World(tmp_path, users=USERS.with_columns(city=pl.Series(["a", "b", "a"])))
    world.features |= {
        "city": IdFeature(side="user", kind="id"),
        "brands": IdsFeature(side="user", kind="ids", of="clicked.brand"),
        "ctr": PriorFeature(kind="prior", by=["item"], label="click", smoothing=2, scale="none"),
        "brand_ctr": PriorFeature(kind="prior", by=["brand"], label="click", smoothing=2, scale="none"),
        "city_shown": PriorFeature(kind="prior", by=["city"], scale="none"),
        "brand_seen": CountFeature(kind="count", of=["clicked.brand", "brand"], scale="none"),
    }
    return world


def refreshed(small: World, log: pl.DataFrame, **tables: Any) -> list[str]:
    """The messages of a refresh of the world's bundle by a newer log, and newer items and users."""
    frames = {"log": log} | {name: tables.pop(name) for name in ("items", "users") if name in tables}
    for name, table in frames.items():
        table.write_parquet(small.folder / f"newer.{name}.parquet")
    said: list[str] = []
    paths: dict[str, Any] = {name: str(small.folder / f"newer.{name}.parquet") for name in frames}
    corank.refresh(small.folder / "bundle", **paths, **tables, report=said.append)
    return said


def seen(
    small: World, *names: str, clicked: Sequence[int] = (), candidates: Sequence[int] = (10,)
) -> list[list[Any]]:
    """The values of some features for user 2 and the candidates, as the bundle's funnel encodes them."""
    funnel = Funnel.open(small.folder / "bundle")
    request = {"user": {"id": 2, "city": "b", "clicked": list(clicked)}, "time": 73 * HOUR}
    received = funnel.encode(Request.parse(request | {"candidates": list(candidates)}))
    row, snapshot = split_record(funnel.schema, received.items.rows(received.positions))
    sides = {
        "query": received.query,
        "item": row,
        "snapshot": snapshot,
        "cross": funnel.request_encoder.cross(received, received.everyone),
    }
    columns = []
    for name in names:
        placement = funnel.schema.placement(name)
        rows, placed = sides[placement], funnel.schema.row_features(placement)
        if name in placed.lists:
            columns.append(rows.lists[placed.lists.index(name)].flat().tolist())
        elif name in placed.ids:
            columns.append(rows.ids[:, placed.ids.index(name)].tolist())
        else:
            columns.append(rows.numbers[:, placed.numbers.index(name)].tolist())
    return columns


ALL = [10, 11, 12, 13, 99]


def test_rates_by_hand(small: World) -> None:
    small.log = LOG.with_columns(city=pl.lit("c"))  # the users' column counts though the log has one, too
    bare_funnel(small.pack(), small.folder / "bundle")
    said = refreshed(small, NEWER.with_columns(city=pl.lit("c")), users=small.users)
    ctr, brand_ctr, city_shown = seen(small, "ctr", "brand_ctr", "city_shown", candidates=ALL)
    # with 0 and 1 of the items 10 and 13 four clicks of six; two candidates of 2/3 are added to each
    assert ctr == pytest.approx([(1 + 4 / 3) / 4, (4 / 3) / 3, (2 + 4 / 3) / 4, (1 + 4 / 3) / 3, 2 / 3])
    x, y, z = (3 + 4 / 3) / 6, (1 + 4 / 3) / 4, 2 / 3
    assert brand_ctr == pytest.approx([x, y, x, y, z])
    assert city_shown == pytest.approx([np.log(1 + 1 + 2)])  # one before, two new; user 3 has no city
    assert "ctr: 1970-01-03 00:00:00 UTC → 1970-01-04 00:00:00 UTC, 2 candidates counted" in said


def test_ages_are_renewed_without_any_prior(small: World) -> None:
    for prior in ("ctr", "brand_ctr", "city_shown"):
        del small.features[prior]
    small.items = ITEMS.with_columns(born=pl.Series([None, -4 * DAY, -10 * DAY, -DAY, 0]))
    small.features |= {
        "born": TimeFeature(kind="time", side="item"),
        "age": AgeFeature(kind="age", of="born", every=timedelta(days=1), scale="none"),
    }
    bare_funnel(small.pack(), small.folder / "bundle")
    # in days, at the last midnight; that of item 11 is clipped to the oldest of training
    assert seen(small, "age", candidates=[10, 12, 11]) == [[3, 6, 10]]
    assert refreshed(small, NEWER) == ["age: 1970-01-03 00:00:00 UTC → 1970-01-04 00:00:00 UTC"]
    assert seen(small, "age", candidates=[10, 12, 11]) == [[4, 7, 10]]
    assert refreshed(small, NEWER[:1]) == []  # an older log moves nothing back
    refreshed(small, NEWER, until="1970-01-06T07:30")
    assert seen(small, "age", candidates=[10, 12]) == [[6, 9]]


def test_newer_items_take_the_place_of_older_records_and_add_to_them(small: World) -> None:
    bare_funnel(small.pack(), small.folder / "bundle")
    names = ("item", "brand", "brand_ctr", "brands", "brand_seen")
    asked: dict[str, Any] = {"clicked": [12, 77], "candidates": [10, 12, 77, 99]}
    # codes of the brands: x 2, y 3, z 4
    rates = pytest.approx([(3 + 1.5) / 5, (3 + 1.5) / 5, 0.75])
    before = [[2, 3, 1], [2, 2, 4], rates, [2, 0], [1, 1, 0]]
    assert seen(small, *names, **asked) == before
    columns = {"item": [77, 12, 12], "brand": ["z", "z", "y"], "tags": [[1], [3], [2]]}
    newer = pl.DataFrame(columns | {"valid_from": [DAY, 2 * DAY, DAY]})  # of versions the newest
    said = refreshed(small, NEWER, items=newer, users=small.users)
    assert said[0] == "items: 1 replaced, 1 new"
    x, z = (3 + 4 / 3) / 6, 2 / 3  # what was counted of the brand x stays with it
    after = [[2, 3, 1, 1], [2, 4, 4, 4], pytest.approx([x, z, z, z]), [4, 4], [0, 2, 2, 2]]
    assert seen(small, *names, **asked) == after


def test_a_gap_before_the_log_is_told(small: World) -> None:
    """Of what is counted late, a log must reach further back."""
    small.features["late"] = PriorFeature(kind="prior", by=["item"], label="click", lag=timedelta(hours=5))
    bare_funnel(small.pack(), small.folder / "bundle")
    said = refreshed(small, NEWER.with_columns(pl.col("time") + 2 * DAY), users=small.users)
    gap = "counts nothing between 1970-01-0{} UTC and 1970-01-05 01:00:00 UTC, where the log begins"
    assert f"ctr: {gap.format('3 00:00:00')}" in said
    assert f"late: {gap.format('2 19:00:00')}" in said


# A refused refresh leaves the bundle as it was

Change = Callable[[pl.DataFrame], pl.DataFrame]


def refused(small: World, log: pl.DataFrame = NEWER, **tables: Any) -> str:
    """The message; the bundle's bytes are the same."""
    bundle = small.folder / "bundle"
    bare_funnel(small.pack(), bundle)
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(DataError) as error:
        refreshed(small, log, **({"users": small.users} | tables))
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    return str(error.value)


LOGS: dict[str, Change] = {
    "data.log: no column 'item'; it has request, user, time, ": lambda log: log.drop("item"),
    "data.labels.click: column 'click' holds 2; expected 0, 1, or null": lambda log: log.with_columns(
        pl.col("click") * 2
    ),
    "data.log: the log is empty": lambda log: log.clear(),
    "data.log: request request='g': item=12 has two rows that differ": lambda log: pl.concat(
        [log, log[-1:].with_columns(click=pl.lit(0, pl.Int64))]
    ),
}
"""By the message that it is refused with."""


ITEM_TABLES: dict[str, Change] = {
    "data.items: no column 'brand'; it has item, tags": lambda items: items.drop("brand"),
}


@pytest.mark.parametrize("message", [*LOGS, *ITEM_TABLES])
def test_an_unsound_table_is_refused(small: World, message: str) -> None:
    said = (
        refused(small, LOGS[message](NEWER))
        if message in LOGS
        else refused(small, items=ITEM_TABLES[message](ITEMS))
    )
    assert said.startswith(message)
