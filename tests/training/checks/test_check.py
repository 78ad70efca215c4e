"""`corank check`: inputs of each tower and every count, without packing or training."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import DataError
from corank.data.packing import grouping, pack
from corank.datasets.feed.simulate import simulate_world

Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    simulate_world(out, requests=300, candidates=20, users=20, items=80)
    return out / "config.yaml"


def places(config: Path, *overrides: str) -> dict[str, dict[str, str]]:
    return {row["feature"]: row for row in corank.check(config, overrides).features}


def test_each_feature_enters_where_its_side_lets_it(config: Path) -> None:
    rows = places(config)
    columns = ("prerank.query", "prerank.item", "rank")
    entered = {name: "".join(row[column] or "-" for column in columns) for name, row in rows.items()}
    query = ["user_id", "age", "gender", "city", "activity", "history", "tab", "hour", "device"]
    item = ["item_id", "category", "brand", "price", "quality", "freshness", "tags"]
    expected = dict.fromkeys(query, "x-x") | dict.fromkeys(item, "-xx") | {"category_clicks": "--x"}
    assert entered == expected


def test_rows_are_those_of_the_files(config: Path) -> None:
    checked = corank.check(config)
    log = pl.read_parquet(config.parent / "log/*.parquet")
    assert checked.rows == {"log": 6000, "items": 80, "users": 20, "truth": 6000}
    day = pl.col("time").dt.date().cast(pl.String)
    valid, test = pl.lit("2026-03-09"), pl.lit("2026-03-10")
    assert checked.splits == {
        "train": log.filter(day < valid).height,
        "valid": log.filter(day == valid).height,
        "test": log.filter(day >= test).height,
    }


def test_nothing_is_written(config: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")}
    corank.check(config)
    assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*")} == before


def change_row(number: int, **values: pl.Expr) -> Change:
    """Give one row of the log other values."""
    here = pl.int_range(pl.len()) == number
    return lambda log: log.with_columns(
        pl.when(here).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


def repeat_row(number: int, **values: pl.Expr) -> Change:
    """Append a copy of a row with other values."""
    return lambda log: pl.concat([log, log[number : number + 1].with_columns(**values)])


def in_turn(*changes: Change) -> Change:
    return lambda log: reduce(lambda rows, change: change(rows), changes, log)


MORE = {
    "data.weight": "weight",
    "data.position": "position",
    "data.propensity": "propensity",
    "data.columns": "[bid]",
    "data.scores": "{production: {column: score, scale: probability}}",
    "data.split": "{column: fold, train: [a], valid: [b], test: [c]}",
    "features.asked": "{side: context, kind: ids}",
    "features.shared": "{side: cross, kind: ids}",
}
"""Every kind of column that a row of the log may have."""
CHANGED = {
    "user_id": pl.col("user_id") + 1,
    "time": pl.col("time") + pl.duration(minutes=1),
    "fold": pl.when(pl.col("fold") == "a").then(pl.lit("b")).otherwise(pl.lit("a")),
    "asked": pl.lit([2, 1]),
}
"""What must be the same for all candidates of a request."""
OWN = {
    "is_click": 1 - pl.col("is_click").fill_null(0),
    "level": pl.when(pl.col("level") == "ranked").then(pl.lit("retrieved")).otherwise(pl.lit("ranked")),
    "category_clicks": pl.col("category_clicks") + 1,
    "propensity": pl.lit(0.25),
    "score": pl.lit(0.75),
    "shared": pl.lit([5]),
}
"""What is a candidate's own."""
CONTRADICTIONS = {
    **{f"{name} of a request": change_row(37, **{name: value}) for name, value in CHANGED.items()},
    **{f"{name} of a copy": repeat_row(37, **{name: value}) for name, value in OWN.items()},
    "a propensity": change_row(0, level=pl.lit("exposed"), propensity=pl.lit(None)),
    "copies beside one that differs": in_turn(
        lambda log: pl.concat([log, log[:3000]]), repeat_row(600, bid=pl.lit(9.0))
    ),
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_rows_that_packing_refuses_are_refused_with_the_same_message(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """Also if the log is packed in several partitions, and its items are counted a part of the requests at a time."""
    monkeypatch.setattr(pack, "PARTITION", 1500)
    monkeypatch.setattr(grouping, "COUNTED", 2500)
    overrides = write_log(config, tmp_path, change)
    with pytest.raises(DataError) as packing:
        corank.pack(config, overrides)
    with pytest.raises(DataError) as checking:
        corank.check(config, overrides)
    assert str(checking.value) == str(packing.value)
    assert str(checking.value).startswith(("data.log: request ", "data.propensity: "))


def write_log(config: Path, folder: Path, change: Change) -> list[str]:
    """Write a changed log with columns of every kind. Returns the overrides that read it and pack next to it."""
    log = pl.read_parquet(config.parent / "log/*.parquet").with_columns(
        weight=pl.lit(1.0),
        position=pl.lit(1),
        propensity=pl.lit(0.5),
        bid=pl.lit(1.0),
        score=pl.lit(0.5),
        asked=pl.lit([1, 2]),
        shared=pl.lit([3]),
    )
    number = pl.col("request_id").rank("dense") % 3
    log = log.with_columns(fold=pl.when(number == 0).then(pl.lit("a")).when(number == 1).then(pl.lit("b"))
                           .otherwise(pl.lit("c")))  # fmt: skip
    change(log).write_parquet(folder / "log.parquet")
    paths = {"data.log": folder / "log.parquet", "packed": folder / "packed"}
    return [f"{key}={value}" for key, value in (MORE | paths).items()]


def test_items_that_packing_refuses_are_refused_with_the_same_message(config: Path, tmp_path: Path) -> None:
    items = pl.read_parquet(config.parent / "items.parquet")
    for changed in (items[1:], pl.concat([items, items[:1].with_columns(price=pl.col("price") + 1)])):
        changed.write_parquet(tmp_path / "items.parquet")
        overrides = [f"data.items={tmp_path / 'items.parquet'}", f"packed={tmp_path / 'packed'}"]
        with pytest.raises(DataError, match=r"^data\.items: ") as packing:
            corank.pack(config, overrides)
        with pytest.raises(DataError) as checking:
            corank.check(config, overrides)
        assert str(checking.value) == str(packing.value)
