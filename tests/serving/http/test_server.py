"""`corank serve` as a command: what a user runs, with real workers on a real port."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx2
import pytest

import corank
from corank.engine.cores import count_cores
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.http_parity import TOLERANCE, parity
from tests.support.service import running_service
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(trained_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    address = f"lmdb:{tmp_path_factory.mktemp('served') / 'store'}"
    corank.publish(trained_bundle, address)
    return address


def test_requests_score_as_the_model_that_was_evaluated(trained: Run, store: str, tmp_path: Path) -> None:
    """Served by two workers over HTTP; `scripts/bench http_parity` sends a thousand."""
    with running_service(store, tmp_path, workers=2) as (url, _):
        figures = parity(trained, url, 150)
    assert figures["requests"] == 150 and figures["scores"] > 150 * 30
    assert figures["largest"] <= TOLERANCE


@pytest.mark.thorough
@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_workers_one_a_core_answer_side_by_side_and_count_together(store: str, tmp_path: Path) -> None:
    with running_service(store, tmp_path, workers=None) as (url, process):
        for _ in range(20):  # a connection each, so that both workers get some
            assert httpx2.post(f"{url}/rank", json={"user": {}, "candidates": [1, 2]}).status_code == 200
        assert re.search(
            r"corank_request_seconds_count\{[^}]*role=.live.\} 20.0", httpx2.get(f"{url}/metrics").text
        )
        assert len(process.children()) >= count_cores()


@pytest.mark.thorough
def test_served_requests_are_logged_on_the_way_out_and_replayed(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_service(store, tmp_path / "cache", "--log", str(tmp_path / "log")) as (url, _):
        for n in range(5):
            body = {"user": {"id": n}, "candidates": [n, n + 1, n + 2], "context": {"tab": "feed"}}
            assert httpx2.post(f"{url}/rank", json=body).status_code == 200
    code, out, err = run_corank(
        capsys, "replay", tmp_path / "log", store, "--cache", tmp_path / "cache", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert (report["requests"], report["candidates"], report["differ"]) == (5, 15, 0)


def test_cores_are_those_that_the_process_may_use() -> None:
    mine = os.sched_getaffinity(0)
    assert 1 <= count_cores() <= len(mine)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: not a bundle (it has no manifest.json)"),
        ("lmdb:nowhere", "lmdb:nowhere: "),
        ("redis://127.0.0.1:1", "redis://127.0.0.1:1: "),
    ],
)
def test_nothing_to_serve_is_a_named_error(
    source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_corank(capsys, "serve", source, "--port", 0)
    assert (code, out) == (1, "")
    assert f"error: {message}" in err and "Traceback" not in err


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_a_port_that_is_taken_is_a_named_error(workers: str, store: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        program = str(Path(sys.executable).with_name("corank"))
        command = [program, "serve", store, "--port", str(taken.getsockname()[1]), "--cache", str(tmp_path)]
        command += ["--workers", workers]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be served" in done.stderr


def test_it_stops_when_told_and_loses_no_answer(store: str, tmp_path: Path) -> None:
    with running_service(store, tmp_path) as (url, process):
        statuses = Counter(
            httpx2.post(f"{url}/rank", json={"user": {}, "candidates": [n]}).status_code for n in range(5)
        )
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert statuses == {200: 5}
