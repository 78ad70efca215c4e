"""Histories of list columns and of events tables, as packed: what requests see, and which tables are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corank.core.errors import ConfigError
from corank.data.packed.dataset import PackedDataset
from corank.data.packed.derived_columns import pair_rows
from corank.data.packed.history import read_event_rows, read_history_items, read_query_rows
from corank.features.encoding import hash_values
from corank.features.history_events import HistoryNeeds
from corank.features.kinds.count import ContainsFeature, CountFeature
from corank.features.kinds.id import IdFeature
from corank.features.kinds.ids import IdsFeature
from corank.features.schema import Placement, Schema
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


@pytest.mark.parametrize("source", ["texts", "table"])
def test_attributes_of_events_are_operands_of_crosses(tmp_path: Path, source: str) -> None:
    separator = " " if source == "texts" else None
    past = history(of="item", events="clicks") if source == "table" else history(**TIMED, separator=separator)
    crosses: dict[str, Any] = {
        "again": ContainsFeature(kind="contains", of=["dwell", "length"]),
        "often": CountFeature(kind="count", of=["dwell", "length"], scale="none"),
        "usual": CountFeature(kind="count", of=["dwell", "asked"], scale="none"),
    }
    tables = clicks(tmp_path, past=past, dwell=history(parallel_to="past"))
    length = pl.Series("length", [6, 5, 4, 7]).cast(pl.String if separator else pl.Int64)
    tables.items = pl.DataFrame({"item": [10, 11, 12, 13], "brand": "x", "tags": [[1]] * 4, "length": length})
    tables.features |= crosses | {
        "length": IdFeature(side="item", kind="id", min_count=9),
        "asked": IdFeature(side="context", kind="id"),
    }
    tables.log = listed(separator).with_columns(asked=pl.lit(5).cast(length.dtype))
    if source != "table":
        tables.data, tables.features["past"] = {}, past
    packed = tables.pack()
    # request c, of item 12: lists hold 5, 6, 7 before it, the table 3, 5, 6; no vocabulary knows its length, 4
    assert (packed.encoders.codes("length", length) == 1).all()
    shard = only(packed, "valid")
    assert shard.query.numbers[:, shard_at(packed, "query", "usual")].tolist() == [1]
    every = np.zeros(4, dtype=np.int64), np.arange(4)
    pairs = pair_rows(packed, shard, np.array([0]), *every)
    expected = {6: 1, 5: 1, 4: 0, 7: 0} if source == "table" else {6: 1, 5: 1, 4: 0, 7: 1}
    rows = packed.item_operands.keys["length"]
    known = {
        hash_values(pl.Series([int(n)]).cast(length.dtype), "")[0]: float(expected[int(n)]) for n in length
    }
    for name in ("again", "often"):
        at = shard_at(packed, "cross", name)
        assert pairs.numbers[:, at].tolist() == [known[key] for key in rows]


def shard_at(packed: PackedDataset, placement: Placement, name: str) -> int:
    return int(packed.schema.row_features(placement).numbers_at[name].start)


def test_unknown_items_are_told_and_attended_to_by_their_code(tmp_path: Path) -> None:
    tables = world(tmp_path, past=history(of="item", column="seen"))
    packed = tables.pack()
    assert any(line.startswith("past: 1 events are of items that the tables do not") for line in tables.said)
    shard = only(packed, "valid")
    items = read_history_items(packed, shard, np.array([0]), ["past"])["past"]
    rows, position = read_event_rows(packed, shard, np.array([0]), "past", items)
    at = packed.schema.row_features("item").ids.index("item")
    assert rows.ids[position.flat(), at].tolist() == [2, 1, 3, 4]
    assert rows.ids[position.flat()[1]].tolist().count(0) == len(rows.ids[0]) - 1


def test_events_are_told_apart_by_attributes_that_are_attended_to(tmp_path: Path) -> None:
    listing = {"dwell": history(parallel_to="past"), "source": history(parallel_to="past")}
    tables = world(tmp_path, past=history(**TIMED), **listing)
    seen, dwell = dict(SEEN) | {"c": [10, 12, 10, 10, 77]}, dict(DWELL) | {"c": [5, 5, 6, 5, 5]}
    when = dict(WHEN) | {"c": [1, 2, 3, 4, 5]}
    kind = pl.List(pl.Int64)
    tables.log = LOG.with_columns(
        pl.col("request").replace_strict(seen, return_dtype=kind).alias("seen"),
        pl.col("request").replace_strict(dwell, return_dtype=kind).alias("dwell"),
        pl.col("request")
        .replace_strict(when, return_dtype=kind)
        .list.eval(pl.element() * HOUR)
        .alias("when"),
        pl.col("request").replace_strict(seen, return_dtype=kind).alias("source"),
    )
    packed = tables.pack()
    shard, one = only(packed, "valid"), np.array([0])
    items = read_history_items(packed, shard, one, ["past"])["past"]
    plain, _ = read_event_rows(packed, shard, one, "past", items, ["item", "brand"])
    assert len(plain) == 3 and plain.ids.shape[1] == packed.items.ids.shape[1]
    rows, position = read_event_rows(packed, shard, one, "past", items, ["dwell"])
    assert len(rows) == 4, "10 with 5 is there twice"
    five, six = packed.encoders.codes("dwell", pl.Series([5, 6]))
    ids = rows.ids[position.flat()]
    assert ids[:, packed.schema.row_features("item").ids.index("item")].tolist() == [2, 3, 2, 2, 1]
    assert ids[:, -2:].tolist() == [[five, 0], [five, 0], [six, 0], [five, 0], [five, 0]]


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
            {"when": pl.col("when").list.eval(pl.element().replace(0, None))},
            "data.log: request='a': column 'when': a time is null; an event without a time cannot be placed: leave it "
            "out of all lists",
        ),
        (
            {"when": pl.col("when").cast(pl.List(pl.Float64))},
            "data.log: request='b': column 'when': expected times (datetimes, dates, or whole milliseconds); received "
            "Float64",
        ),
        (
            {"seen": pl.col("seen").cast(pl.List(pl.String))},
            "data.log: request='b': column 'seen' lists String, such as '12'; ids of items are Int64",
        ),
        (
            {"seen": pl.lit(5)},
            "data.log: column 'seen' is Int32; expected lists, as it has no separator in features.past",
        ),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read_are_refused(
    tmp_path: Path, change: dict[str, pl.Expr], message: str
) -> None:
    tables = world(tmp_path, past=history(**TIMED))
    tables.log = tables.log.with_columns(**change)
    assert tables.refused() == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (CLICKS.drop("at"), "no column 'at'; it has who, item, dwell"),
        (CLICKS.with_columns(at=pl.lit(None)), "column 'at' is null in 6 rows; every event needs one"),
        (CLICKS.with_columns(who=pl.lit(1.5)), "column 'who' identifies, but holds 1.5; write whole numbers or text"),
    ],
)  # fmt: skip
def test_events_that_cannot_be_read_are_refused(tmp_path: Path, table: pl.DataFrame, message: str) -> None:
    tables = clicks(tmp_path, table, past=history(of="item", events="clicks"))
    assert tables.refused() == f"data.events.clicks: {message}"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"dwell": history(parallel_to="clicked")},
            "features.dwell.parallel_to: must name a history of a list column or of an events table (none declared); "
            "received 'clicked'",
        ),
        (
            {"past": history(**TIMED), "more": history(parallel_to="past", column="when")},
            "features.more.column: 'when' is a column of the history 'past' itself; name another list beside it",
        ),
        ({}, "data.events.clicks: no feature reads it; drop it, or add a history or a prior of it"),
        (
            {"past": history(of="item", events="views")},
            "features.past.events: no table 'views'; data.events are clicks",
        ),
    ],
)
def test_settings_that_name_nothing_are_refused(
    tmp_path: Path, features: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        Schema(FEATURES | features).check_data(clicks(tmp_path).settings())
    assert str(error.value) == message


def test_a_history_has_the_dimension_of_its_items(tmp_path: Path) -> None:
    items = {"item": FEATURES["item"].model_copy(update={"dim": 7})}
    schema = Schema(FEATURES | items | {"past": history(of="item", column="seen")})
    assert [schema.features[name].width for name in ("past", "clicked", "shown")] == [7, 7, 7]
    with pytest.raises(ConfigError, match="whose dim is 7; received 16"):
        Schema(FEATURES | items | {"past": history(of="item", column="seen", dim=16)})
