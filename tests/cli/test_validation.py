"""`corank check --against`: the table, the JSON, the reasons and the exit status."""

import json
from pathlib import Path

import pytest

import corank
from tests.support.command_line import run_corank
from tests.support.new_days import DAY, NewDay
from tests.support.shared import finished_run, simulated_world


def arguments(*changes: str) -> list[object]:
    config = simulated_world() / "config.yaml"
    return ["check", config, "--against", finished_run().folder, *(f"--set={change}" for change in changes)]


def test_an_ordinary_day_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_corank(capsys, *arguments(DAY))
    assert (code, err) == (0, "")
    assert "accepted" in out and "category_clicks" in out
    code, out, err = run_corank(capsys, *arguments(DAY), "--json")
    document = json.loads(out)
    assert code == 0 and document["accepted"] and document["findings"] == []
    check = corank.check(simulated_world() / "config.yaml", [DAY], against=finished_run().folder)
    assert document == json.loads(check.to_json())
    assert check.tables["figures"].height == len(document["figures"])
    assert "accepted" in repr(check) and "<table" in (check._repr_html_() or "")


def test_a_bad_day_ends_with_3_and_a_line_for_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = NewDay(log=lambda log: log.filter(log["time"].dt.hour() < 12)).write(tmp_path)
    code, out, err = run_corank(capsys, *arguments(*changes), "--json")
    assert code == 3
    found = json.loads(out)["findings"]
    *told, last = err.splitlines()
    assert told == [f"error: {finding['finding']}" for finding in found]
    assert found[0]["where"] == ["log"] and "(drift.rows: 1.6)" in told[0]
    assert last.startswith("refused: mend the tables") and "under `drift` in the config" in last


def test_a_mistake_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_corank(capsys, *arguments())
    assert (code, out) == (1, "")
    assert err.startswith("error: data.split: training ends at 2026-03-09") and "let `train` end later" in err
