"""The access log and the audit: a line a request, without what is personal, whole across rotation, bounded."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from corank.core.errors import ConfigError
from corank_serve.http import access_log
from corank_serve.http.access_log import AccessLog, AuditLog
from corank_serve.http.asgi import HttpReply
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.store.source import BundleSource
from tests.support.random_worlds import RICH
from tests.support.service import access, call_of
from tests.support.shared import shared_case

BODY: dict[str, Any] = {"user": {"id": 7}, "candidates": [1, 2, 3]}


@contextmanager
def serving(log: AccessLog, queue: int = 64) -> Iterator[TestClient]:
    follower = Follower(BundleSource(shared_case(RICH).base / "bundle"))
    with TestClient(RankingService(follower, Limits(queue=queue), access(), access_log=log).app()) as client:
        yield client


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_what_was_asked_and_how_long_each_stage_took(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with serving(AccessLog(path)) as client:
        answer = client.post("/rank?user=alice", json=BODY, headers={"X-Request-Id": "page-1"})
        other = client.get("/nowhere/" + "x" * 1000, headers={"X-Request-Id": "two words"})
        client.post(
            "/rank", content=b'{"user": {"id": "bob@home"}}', headers={"Content-Type": "application/json"}
        )
    ranked, missing, refused = lines(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (ranked["id"], answer.headers["x-request-id"]) == ("page-1", "page-1")
    assert (ranked["method"], ranked["path"], ranked["status"]) == ("POST", "/rank", 200)
    assert (ranked["bytes"], ranked["token"], ranked["candidates"]) == (len(answer.content), "nobody", 3)
    assert ranked["version"] == answer.json()["model_version"]
    assert list(ranked["stages"]) == ["receive", "prerank", "rank"]
    assert 0 < sum(ranked["stages"].values()) < ranked["ms"]
    assert (missing["status"], len(missing["path"]), len(missing["id"])) == (404, 200, 16)
    assert other.headers["x-request-id"] == missing["id"]
    assert refused["status"] == 400
    assert "alice" not in path.read_text() and "bob" not in path.read_text() and "users" not in ranked


def test_a_full_queue_is_told(tmp_path: Path) -> None:
    path = tmp_path / "access"
    with serving(AccessLog(path), queue=0) as client:
        assert client.post("/rank", json=BODY).status_code == 503
    assert [line["why"] for line in lines(path)] == ["queue"]


def add(log: AccessLog, path: str) -> None:
    call = call_of([])
    call.scope.update(method="GET", path=path)
    log.observe(call, HttpReply(), 0.0)


def test_a_renamed_file_is_followed_by_a_new_one_and_what_is_too_much_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 3600.0)
    monkeypatch.setattr(access_log, "MAX_LINES", 3)
    path, dropped, reports = tmp_path / "access", list[int](), list[str]()
    for n in range(2):
        log = AccessLog(path)
        log.start(reports.append, dropped.append)
        for _ in range(5):
            add(log, f"/{n}")
        log.close()
        path.rename(tmp_path / f"access.{n}")
    assert [[line["path"] for line in lines(tmp_path / f"access.{n}")] for n in range(2)] == [
        ["/0"] * 3,
        ["/1"] * 3,
    ]
    assert (dropped, reports) == ([2, 2], [])


def test_a_file_that_cannot_be_written_is_named_at_the_start_and_counted_later(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--access-log: .*nowhere/access: cannot be written: No such file"):
        AccessLog(tmp_path / "nowhere" / "access")
    path, dropped, reports = tmp_path / "access", list[int](), list[str]()
    log = AccessLog(path)
    path.unlink()
    path.mkdir()
    log.start(reports.append, dropped.append)
    add(log, "/")
    log.close()
    assert (dropped, len(reports)) == ([1], 1) and "the access log cannot be written" in reports[0]


def test_lines_to_a_pipe_are_written_by_the_page(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(Path("-"))
    log.start(lambda line: None, lambda lines: None)
    for _ in range(100):
        add(log, "/" + "x" * 150)
    log.close()
    assert len([json.loads(line) for line in capfd.readouterr().out.splitlines()]) == 100


# The audit


def test_an_audit_line_says_what_and_a_file_is_for_its_owner_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    audit.record("upsert", 200, by="feed")
    path.rename(tmp_path / "audit.1")
    audit.record("reload", 200)
    (line,), (after,) = lines(tmp_path / "audit.1"), lines(path)
    assert (line["action"], line["status"], line["by"], after["action"]) == ("upsert", 200, "feed", "reload")
    assert path.stat().st_mode & 0o777 == 0o600


def write_many(path: Path) -> None:
    audit = AuditLog(path)
    for _ in range(200):
        audit.record("upsert", 200, filler="x" * 5000)


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(write_many, [tmp_path / "audit"] * 2))
    assert len(lines(tmp_path / "audit")) == 400


def test_an_audit_that_cannot_be_written_is_told_at_the_start_and_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"--audit: .*no/audit: cannot be written"):
        AuditLog(tmp_path / "no" / "audit")
    audit = AuditLog(tmp_path / "audit")
    (tmp_path / "audit").unlink()
    (tmp_path / "audit").mkdir()
    audit.record("reload", 200)
    assert '"action":"reload"' in capsys.readouterr().err
