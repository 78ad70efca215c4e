"""Audit lines."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from corank.core.errors import ConfigError
from corank.serving.http.access_log import REFUSED_A_MINUTE, AuditLog


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_and_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    audit.record("upsert", 200, by="feed")
    (line,) = lines(path)
    assert (line["action"], line["status"], line["by"]) == ("upsert", 200, "feed")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_renamed_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    audit.record("upsert", 200, n=1)
    path.rename(tmp_path / "audit.1")
    audit.record("upsert", 200, n=2)
    assert [line["n"] for line in lines(tmp_path / "audit.1") + lines(path)] == [1, 2]


def test_refusals_are_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 30.0)
    audit = AuditLog(tmp_path / "audit")
    for _ in range(REFUSED_A_MINUTE + 50):
        audit.record("upsert", 401)
    audit.record("upsert", 200)
    records = lines(tmp_path / "audit")
    assert len(records) == REFUSED_A_MINUTE + 1
    assert records[-1]["refusals_not_recorded"] == 50


def write_many(path: Path) -> None:
    audit = AuditLog(path)
    for _ in range(200):
        audit.record("upsert", 200, filler="x" * 5000)


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_many, [tmp_path / "audit"] * 2))
    assert len(lines(tmp_path / "audit")) == 400


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no/audit: the audit cannot be written"):
        AuditLog(tmp_path / "no" / "audit")


def test_what_cannot_be_written_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    audit = AuditLog(tmp_path / "folder" / "audit")
    (tmp_path / "folder" / "audit").unlink()
    (tmp_path / "folder").rmdir()
    audit.record("reload", 200)
    assert '"action":"reload"' in capsys.readouterr().err
