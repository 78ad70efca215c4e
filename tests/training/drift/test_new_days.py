"""An ordinary day is accepted; what goes wrong with a day's tables is refused with its reason."""

import os
import re
from pathlib import Path

import polars as pl
import pytest

from corank.api.config_source import OpenedConfig
from corank.core.errors import ConfigError
from corank.training.drift import encoded_rows as packed_rows
from corank.training.drift.drift import DriftReport, compare_rows
from corank.training.packed_data import pack_config
from tests.support.command_line import run_corank
from tests.support.new_days import Change, NewDay, unchanged


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
    "no row": (NewDay(log=keep(pl.lit(False))), "rows", "log"),
    "a column of the log gone": (NewDay(log=drop("device")), "columns", "log.device"),
    "a column gone in the last file": (NewDay(log=drop("tab"), before=unchanged), "columns", "log.tab"),
    "a column more": (NewDay(items=set_to("valid_from", pl.lit(0))), "columns", "items.valid_from"),
    "text as numbers": (NewDay(log=set_to("device", pl.lit(7))), "columns", "log.device"),
    "a number as text": (NewDay(items=set_to("price", pl.lit("dear"))), "columns", "items.price"),
    "files of two types": (
        NewDay(log=set_to("is_click", pl.col("is_click").cast(pl.Float32)), before=unchanged),
        "columns",
        "log.is_click",
    ),
    "a number missing": (NewDay(items=set_to("price", NOTHING.cast(pl.Float64))), "missing", "price"),
    "lists empty": (NewDay(items=set_to("tags", NOTHING.cast(pl.List(pl.String)))), "missing", "tags"),
    "users not joined": (NewDay(users=set_to("user_id", pl.col("user_id") + 10**9)), "missing", "gender"),
    "labels flipped": (NewDay(log=set_to("is_click", 1 - pl.col("is_click"))), "labels", "click"),
    "labels unknown": (NewDay(log=set_to("is_click", NOTHING.cast(pl.Int8))), "labels", "click"),
    "a level vanished": (NewDay(log=keep(pl.col("level") != "ranked")), "levels", "ranked"),
    "new items": (NewDay(log=OTHER_ITEMS, items=OTHER_ITEMS), "new_ids", "item_id"),
    "users without events": (NewDay(log=set_to("user_id", pl.col("user_id") + 10**6)), "missing", "history"),
    "another unit": (NewDay(items=set_to("price", pl.col("price") * 100)), "psi", "price"),
}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> DriftReport:
    return NewDay().compare(tmp_path_factory.mktemp("ordinary"))


def test_an_ordinary_day_is_accepted(ordinary: DriftReport) -> None:
    assert ordinary.reasons == []
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
    of_it = [reason for reason in validation.reasons if reason.startswith(f"{kind}: ")]
    assert any(name.rpartition(".")[2] in reason or kind == "rows" for reason in of_it)


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
        r"data.log: column 'user_id' is null in [\d,]+ rows; every candidate needs one",
    ),
}


@pytest.mark.parametrize("day", UNFIT)
def test_values_that_no_packing_takes_are_refused_whatever_the_thresholds(day: str, tmp_path: Path) -> None:
    new_day, reason = UNFIT[day]
    validation = new_day.compare(tmp_path, "drift={levels: null, missing: null, psi: null}")
    assert [figure.kind for figure in validation.broken] == ["values"]
    assert re.match(f"values: {reason}", validation.reasons[0])


def test_a_feature_that_is_not_judged_is_shown(tmp_path: Path) -> None:
    dearer = BAD_DAYS["another unit"][0]
    validation = dearer.compare(tmp_path, "drift.unjudged=[price]")
    assert validation.reasons == [] and validation.drift["price"] > 1


def test_a_feature_that_cannot_be_compared_is_shown_with_the_reason(tmp_path: Path) -> None:
    prior = "features.popular={kind: prior, by: [item_id], label: click}"
    validation = NewDay().compare(tmp_path, prior, "features.price.scale=standard", "features.tags=null")
    why = {
        figure.name: figure.now for figure in validation.figures if str(figure.now).startswith("not compared")
    }
    assert why == {
        "popular": "not compared: the run has no such feature",
        "price": "not compared: its settings have changed",
        "tags": "not compared: the config has no such feature",
    }
    assert validation.reasons == [] and why.keys().isdisjoint(validation.drift)


def test_a_feature_that_is_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"drift.unjudged: unknown feature 'prize'; did you mean 'price'"):
        NewDay().compare(tmp_path, "drift.unjudged=[prize]")


def test_earlier_rows_are_not_read(ordinary: DriftReport, tmp_path: Path) -> None:
    number = set_to("category_clicks", pl.col("category_clicks").cast(pl.Float64))
    nonsense = set_to("category_clicks", pl.lit(float("inf")))
    assert NewDay(log=number, before=nonsense).compare(tmp_path).figures == ordinary.figures


def test_a_sample_gives_about_the_same(
    ordinary: DriftReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_rows, "SAMPLE", 12_000)
    monkeypatch.setattr(packed_rows, "NEW_SAMPLE", 2_000)
    validation = NewDay().compare(tmp_path)
    assert validation.reasons == []
    exact, about = ({(f.kind, f.name): f.now for f in v.figures} for v in (ordinary, validation))
    assert (
        about["rows", "log"] == exact["rows", "log"] and about["labels", "click"] == exact["labels", "click"]
    )
    assert about != exact


def test_a_split_without_new_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row is new; let `train` end later"):
        NewDay().compare(tmp_path, "data.split={train: 2026-03-01..2026-03-05}")


def test_columns_of_a_log_of_lists_are_compared_by_candidate(tmp_path: Path) -> None:
    """The same day with a row a request: a number a candidate is a number, though it stands in a list."""
    along = ["level", "is_click", "category_clicks"]

    def listed(log: pl.DataFrame) -> pl.DataFrame:
        columns = [name for name in log.columns if name not in ("request_id", "item_id", *along)]
        return log.group_by("request_id", maintain_order=True).agg(
            *(pl.col(name).first() for name in columns), pl.col("item_id").alias("items"), pl.col(along)
        )

    day = NewDay(log=listed)
    files = tmp_path / "log-*.parquet"
    validation = day.compare(
        tmp_path, f"data.log={{files: '{files}', list: items, along: [{', '.join(along)}]}}"
    )
    columns = {figure.name for figure in validation.figures if figure.kind == "columns"}
    assert columns <= {"log.item_id", "log.items"}


SLICE = os.environ.get("CORANK_KUAIRAND")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real") / "kuairand"


@pytest.mark.thorough
@pytest.mark.realdata
@pytest.mark.skipif(SLICE is None, reason="CORANK_KUAIRAND does not name a folder of KuaiRand-Pure")
@pytest.mark.parametrize("day", [27, 30])
def test_an_ordinary_day_of_a_real_log_is_accepted(
    day: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The 30th is the first day of a holiday: it has 1.4 times the rows of the days before."""
    if not project.exists():
        assert run_corank(capsys, "import", "kuairand", SLICE, project)[0] == 0
    config = project / "config.yaml"
    before = f"data.split={{train: 2022-04-{day - 1}..2022-04-{day}, valid: 2022-04-{day}..}}"
    packed = OpenedConfig.open(config, [before, f"packed=before-{day}"])
    until = "" if day == 30 else f"2022-04-{day + 1}"
    new = OpenedConfig.open(config, [f"data.split={{train: 2022-04-{day}..{until}}}"]).settings
    validation = compare_rows(new, packed.base, pack_config(packed.settings, packed.base), "run")
    assert validation.reasons == []
    assert len(validation.drift) > 30 and "click_history" in validation.drift
