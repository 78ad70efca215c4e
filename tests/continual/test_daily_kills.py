"""`corank daily` killed with SIGKILL where work is done and not yet noted, and two of them at once."""

import os
from pathlib import Path

import pytest

import corank
from corank.continual.history import DailyHistory
from corank.core.locks import LOCK, WriteLock
from tests.support.command_line import run_corank
from tests.support.daily_world import bundles_of, call_daily, live_model, request_of, write_daily_world
from tests.support.kills import kill_before, run

FIRST, SECOND = "2026-03-02", "2026-03-03"


@pytest.mark.slow
def test_killed_runs_leave_a_whole_live_version_and_end_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, broken = (write_daily_world(tmp_path / name, 3, 400) for name in ("unbroken", "broken"))
    run(call_daily, unbroken)
    models = [record.model for record in DailyHistory(unbroken.parent / "daily").records]
    request = request_of(unbroken)
    moments = [
        (f"{FIRST}/publish.json", models[0]),
        (f"{SECOND}/train.json", models[0]),
        ("history.json", models[1]),  # of the second period: the first is in it
    ]
    for moment, live in moments:
        kill_before(moment, call_daily, broken)
        assert live_model(broken, tmp_path / "cache" / moment, request) == live, moment
    result = corank.daily(broken)
    assert [record.model for record in result.records] == models
    assert bundles_of(broken) == bundles_of(unbroken)


def test_a_second_process_ends_with_one_line_that_names_the_first_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write_daily_world(tmp_path / "world", 3, 60)
    with WriteLock.of_folder(settings.parent / "daily", "daily"):
        code, out, said = run_corank(capsys, "daily", settings)
        assert (code, out) == (1, "")
        (line,) = said.splitlines()
        assert f"daily: corank daily (process {os.getpid()} on " in line and "is writing it" in line
        assert [path.name for path in (settings.parent / "daily").iterdir()] == [LOCK]
