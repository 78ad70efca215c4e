"""`corank daily` with `join`: it joins first, and a period waits until the labels of its rows are known."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import ConfigError
from corank_continual.periods.history import DailyHistory
from tests.support.command_line import run_corank
from tests.support.daily_world import bundles_of, call_daily, write_daily_world
from tests.support.kills import call_until, count_changes, run, start

CLICK = {"click": {"column": "is_click"}}
EVERYWHERE = {"known": "everywhere"}


def hold_back(settings: Path, day: str) -> None:
    """Let the events from a day on be of the future."""
    later = settings.parent / "later"
    later.mkdir()
    for path in sorted((settings.parent / "organic").glob("*.parquet")):
        if path.stem >= day:
            shutil.move(path, later / path.name)


@pytest.mark.slow
def test_periods_wait_for_their_labels_and_late_events_join_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write_daily_world(tmp_path / "world", 4, 500, joins=True)
    world = settings.parent
    hold_back(settings, "2026-03-06")
    code, _, err = run_corank(capsys, "daily", str(settings))
    assert code == 0 and "no period is due" in err and "rows wait for labels, the last until 2026-03-0" in err
    shutil.move(world / "later/2026-03-06.parquet", world / "organic")
    result = corank.daily(settings)
    assert [record.period for record in result.records] == ["2026-03-02"] and result.joined is not None
    waiting = pl.read_parquet(world / "log/*.parquet")["later"].null_count()
    assert result.joined.waiting == waiting > 0
    shutil.move(world / "later/2026-03-07.parquet", world / "organic")
    late = pl.read_parquet(world / "raw/2026-03-02.parquet").select("user_id", "item_id", "time").head(5)
    late.with_columns(pl.col("time") + pl.duration(hours=1), kind=pl.lit("order")).write_parquet(
        world / "organic/late.parquet"
    )
    result = corank.daily(settings)
    assert result.joined is not None and "2026-03-02" in result.joined.written
    assert [record.decision for record in result.records] == ["live", "live"]
    known = pl.read_parquet(world / "log/*.parquet").filter(pl.col("time").dt.day() <= 3)["later"]
    assert known.null_count() == 0 and known.sum() > 20
    assert result.records[-1].rows["train"] > 0


@pytest.mark.parametrize(
    ("config", "daily", "named"),
    [
        ({"as_of": None}, {}, "data.as_of"),
        ({"log": "log/a.parquet"}, {}, "data.log"),
        ({"labels": CLICK | {"later": EVERYWHERE | {"column": "late"}}}, {}, "join.labels.later"),
        ({"labels": CLICK | {"later": EVERYWHERE | {"column": "later"}}}, {}, "matures_after: write 3d"),
        ({}, {"delay": "1h"}, "delay"),
        ({}, {"join": {"log": "raw/*.parquet", "labels": {}}}, "labels"),
    ],
)
def test_a_config_that_does_not_read_the_join_is_refused(
    config: dict[str, object], daily: dict[str, object], named: str, tmp_path: Path
) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 60, joins=True)
    path = settings.parent / "config.yaml"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["data"] |= config
    path.write_text(json.dumps(written), encoding="utf-8")
    settings.write_text(
        json.dumps(json.loads(settings.read_text(encoding="utf-8")) | daily), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=named):
        corank.daily(settings)
    assert not (settings.parent / "log").exists()


@pytest.mark.thorough
def test_killed_runs_lose_no_row_join_none_twice_and_end_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, counted, broken = (
        write_daily_world(tmp_path / name, 3, 300, joins=True) for name in ("unbroken", "counted", "broken")
    )
    run(call_daily, unbroken)
    changes = count_changes(call_daily, counted)
    for change in (5, 20, 40, changes // 2, changes - 5):
        start(call_until, change, call_daily, broken).join()
    corank.daily(broken)
    for path in sorted((unbroken.parent / "log").glob("*")):
        assert (
            path.name == "join.json" or path.read_bytes() == (broken.parent / "log" / path.name).read_bytes()
        )
    models = [
        [record.model for record in DailyHistory(one.parent / "daily").records] for one in (unbroken, broken)
    ]
    assert models[0] == models[1]
    assert bundles_of(unbroken) == bundles_of(broken)
