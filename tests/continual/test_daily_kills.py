"""`corank daily` killed with SIGKILL where work is done and not yet noted, and two of them at once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

import corank
from corank.core.errors import ConfigError, StoreError
from corank.core.locks import LOCK, WriteLock
from corank_continual.periods.history import DailyHistory
from tests.support.command_line import run_corank
from tests.support.daily_world import bundles_of, call_daily, live_model, request_of, write_daily_world
from tests.support.kills import kill_before, run

FIRST, SECOND = "2026-03-02", "2026-03-03"


@contextmanager
def changed_inputs(settings: Path) -> Iterator[None]:
    """Let a row of the first day come late, and the gate refuse every candidate; then as before."""
    log, *_ = sorted((settings.parent / "log").glob("*.parquet"))
    kept, text = shutil.copy2(log, settings.parent / "kept"), settings.read_text(encoding="utf-8")
    rows = pl.read_parquet(log)
    pl.concat([rows, rows[:1].with_columns(pl.col("request_id") + 10**6)]).write_parquet(log)
    plain = json.loads(text) | {"gate": ["rank.exposed.click.auc >= 2"]}
    settings.write_text(json.dumps(plain), encoding="utf-8")
    yield
    shutil.move(kept, log)
    settings.write_text(text, encoding="utf-8")


def undo_second(settings: Path) -> None:
    """Undo the second period, for processes of their own."""
    corank.daily(settings, undo=SECOND)


@pytest.mark.slow
def test_killed_runs_leave_a_whole_live_version_and_end_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, broken = (write_daily_world(tmp_path / name, 3, 400) for name in ("unbroken", "broken"))
    run(call_daily, unbroken)
    models = [record.model for record in DailyHistory(unbroken.parent / "daily").records]
    request = request_of(unbroken)

    def kill_at(moment: str, live: str | None) -> None:
        kill_before(moment, call_daily, broken)
        assert live_model(broken, tmp_path / "cache" / moment, request) == live, moment

    kill_at(f"{FIRST}/publish.json", models[0])
    with changed_inputs(broken):  # what was published is a fact, whatever changed since
        with pytest.raises(ConfigError, match=f"period {FIRST}: live in the store already"):
            corank.daily(broken, skip=[FIRST])
        kill_at(f"{SECOND}/begin.json", models[0])
        assert [record.model for record in DailyHistory(broken.parent / "daily").records] == models[:1]
    kill_at(f"{SECOND}/train.json", models[0])
    kill_at("history.json", models[1])  # of the second period: the first is in it
    result = corank.daily(broken)
    assert [record.model for record in result.records] == models
    assert bundles_of(broken) == bundles_of(unbroken)
    kill_before("history.json", undo_second, broken)  # when the store has gone back
    assert live_model(broken, tmp_path / "cache" / "undone", request) == models[0]
    with pytest.raises(StoreError, match=f"`--undo {SECOND}` goes back in both"):
        corank.daily(broken)
    undo_second(broken)
    assert [r.decision for r in DailyHistory(broken.parent / "daily").records] == ["live", "undone"]
    assert live_model(broken, tmp_path / "cache" / "undone", request) == models[0]


def test_a_second_process_ends_with_one_line_that_names_the_first_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 60)
    with WriteLock(settings.parent / "daily", "daily"):
        code, out, said = run_corank(capsys, "daily", settings)
        assert (code, out) == (1, "")
        (line,) = said.splitlines()
        assert f"daily: corank daily (process {os.getpid()} on " in line and "is writing it" in line
        assert [path.name for path in (settings.parent / "daily").iterdir()] == [LOCK]
