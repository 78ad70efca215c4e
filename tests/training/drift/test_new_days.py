"""An ordinary day is accepted; what goes wrong with a day's tables is refused with its reason."""

import re
from pathlib import Path

import polars as pl
import pytest

from corank.core.errors import ConfigError
from corank.training.drift.report import DriftReport
from tests.support.new_days import Change, NewDay


def set_to(column: str, value: pl.Expr) -> Change:
    return lambda frame: frame.with_columns(value.alias(column))


def drop(column: str) -> Change:
    return lambda frame: frame.drop(column)


def keep(rows: pl.Expr) -> Change:
    return lambda frame: frame.filter(rows)


NOTHING = pl.lit(None)
OTHER_ITEMS = set_to("item_id", pl.col("item_id") + 10**6)
BAD_DAYS = {
    "half its rows lost": (NewDay(log=keep(pl.col("time").dt.hour() < 12)), "rows", "log"),
    "a column of the log gone": (NewDay(log=drop("device")), "columns", "log.device"),
    "a column more": (NewDay(items=set_to("valid_from", pl.lit(0))), "columns", "items.valid_from"),
    "a number as text": (NewDay(items=set_to("price", pl.lit("dear"))), "columns", "items.price"),
    "a number missing": (NewDay(items=set_to("price", NOTHING.cast(pl.Float64))), "missing", "price"),
    "users not joined": (NewDay(users=set_to("user_id", pl.col("user_id") + 10**9)), "missing", "gender"),
    "labels flipped": (NewDay(log=set_to("is_click", 1 - pl.col("is_click"))), "labels", "click"),
    "a level vanished": (NewDay(log=keep(pl.col("level") != "ranked")), "levels", "ranked"),
    "new items": (NewDay(log=OTHER_ITEMS, items=OTHER_ITEMS), "new_ids", "item_id"),
    "another unit": (NewDay(items=set_to("price", pl.col("price") * 100)), "psi", "price"),
}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> DriftReport:
    return NewDay().compare(tmp_path_factory.mktemp("ordinary"))


def test_an_ordinary_day_is_accepted(ordinary: DriftReport) -> None:
    assert ordinary.refusals == []
    judged = {figure.kind for figure in ordinary.figures if figure.verdict == "ok"}
    assert judged == {"rows", "levels", "labels", "missing", "new_ids", "psi"}
    assert set(ordinary.drift) >= {"price", "tags", "category_clicks", "hour"}
    (history,) = (f for f in ordinary.figures if (f.kind, f.name) == ("missing", "history"))
    assert history.verdict == "ok" and history.reference is not None


@pytest.mark.parametrize("day", BAD_DAYS)
def test_a_bad_day_is_refused_with_its_reason(day: str, tmp_path: Path) -> None:
    new_day, kind, name = BAD_DAYS[day]
    validation = new_day.compare(tmp_path)
    assert (kind, name) in {(figure.kind, figure.name) for figure in validation.broken}
    rule = "" if kind == "columns" else f"(drift.{kind}: "
    assert any(name in finding.where and rule in finding.what for finding in validation.findings)
    assert all(finding.severity == "error" for finding in validation.findings)


def test_features_that_differ_alike_are_one_finding(tmp_path: Path) -> None:
    missing = BAD_DAYS["users not joined"][0].compare(tmp_path).findings[0]
    assert {"age", "gender", "city", "activity"} <= missing.places.keys()
    assert missing.places["gender"] == "was 0.00%, now 100.00%"


def test_a_column_that_may_differ_is_a_warning(tmp_path: Path) -> None:
    more = BAD_DAYS["a column more"][0].compare(tmp_path, "drift.columns=false")
    (finding,) = more.findings
    assert more.accepted and more.refusals == []
    assert finding.line.startswith("warning: items.valid_from (was missing, now there): items.parquet has it")


UNFIT = {
    "a level that the config does not name": (
        NewDay(log=set_to("level", pl.col("level").replace("ranked", "reranked"))),
        r"data.level: column 'level' holds 'reranked'; data.levels are .* \(at request_id=\d+, item_id=\d+\)",
    ),
    "items without a row": (
        NewDay(log=OTHER_ITEMS),
        r"data.items: \d+ items of the log have no row, such as .*; add them",
    ),
    "a key that is null": (
        NewDay(log=set_to("user_id", NOTHING.cast(pl.Int64))),
        r"data.log: column 'user_id' is null; every candidate needs one \(at request_id=\d+, item_id=\d+\)",
    ),
}


@pytest.mark.parametrize("day", UNFIT)
def test_values_that_no_packing_takes_are_refused_whatever_the_thresholds(day: str, tmp_path: Path) -> None:
    new_day, reason = UNFIT[day]
    validation = new_day.compare(tmp_path, "drift={levels: null, missing: null, psi: null}")
    assert [figure.kind for figure in validation.broken] == ["values"]
    assert re.match(reason, validation.refusals[0])


def test_a_feature_that_is_not_judged_is_shown(tmp_path: Path) -> None:
    dearer = BAD_DAYS["another unit"][0]
    validation = dearer.compare(tmp_path, "drift.unjudged=[price]")
    assert validation.refusals == [] and validation.drift["price"] > 1


def test_a_split_without_new_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row is new; let `train` end later"):
        NewDay().compare(tmp_path, "data.split={train: 2026-03-01..2026-03-05}")
