"""`corank serve` as a command: what a user runs, with real workers on a real port."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

import corank
from corank.bundle.stage_facts import TOLERANCE
from corank.core.errors import CorankError
from corank.engine.cores import count_cores
from corank.training.run import Run
from corank_serve.http.process.listener import bind_listener
from corank_serve.http.serve_settings import ServeSettings
from corank_serve.http.worker import serve_worker
from tests.support import hostile_input
from tests.support.command_line import run_corank
from tests.support.http_parity import parity
from tests.support.random_worlds import RICH
from tests.support.service import running_service
from tests.support.shared import shared_case
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
        figures = parity(trained, url, 60)
    assert figures["requests"] == 60 and figures["scores"] > 60 * 30
    assert figures["largest"] <= TOLERANCE


@pytest.mark.thorough
@pytest.mark.skipif(count_cores() < 2, reason="one core")
def test_workers_one_a_core_answer_side_by_side_and_count_together(store: str, tmp_path: Path) -> None:
    with running_service(store, tmp_path, workers=None) as (url, process):
        for _ in range(20):  # a connection each, so that both workers get some
            assert httpx2.post(f"{url}/rank", json={"user": {}, "candidates": [1, 2]}).status_code == 200
        assert "corank_request_seconds_count 20.0" in httpx2.get(f"{url}/metrics").text
        assert len(process.children()) >= count_cores()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: not a bundle (it has no manifest.json)"),
        ("lmdb:nowhere", "lmdb:nowhere: "),
    ],
)
def test_nothing_to_serve_is_a_named_error(
    source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_corank(capsys, "serve", source, "--port", 0)
    assert (code, out) == (1, "")
    assert f"error: {message}" in err and "Traceback" not in err


def test_a_port_that_is_taken_is_a_named_error(store: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        program = str(Path(sys.executable).with_name("corank"))
        command = [program, "serve", store, "--port", str(taken.getsockname()[1]), "--cache", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be served" in done.stderr


def test_of_two_services_that_have_bound_a_port_the_later_one_ends(trained_bundle: Path) -> None:
    settings = ServeSettings(source=str(trained_bundle))
    with (
        bind_listener("127.0.0.1", 0) as first,
        bind_listener("127.0.0.1", first.getsockname()[1]) as second,
    ):
        first.listen()
        with pytest.raises(CorankError, match="cannot be served: Address already in use"):
            serve_worker(settings, [second], pytest.fail)


@pytest.mark.thorough
def test_hostile_input_is_answered_and_changes_nothing_for_others(tmp_path: Path) -> None:
    """A few of the cases of `scripts/bench fuzz`."""
    case = shared_case(RICH)
    store = f"lmdb:{tmp_path / 'store'}"
    corank.publish(case.base / "bundle", store)
    valid = case.request("test", 0)
    with running_service(store, tmp_path / "cache") as (url, _):
        results = [
            hostile_input.post_mutations(url, "/rank", valid, 120, 0),
            hostile_input.post_mutations(url, "/rank", valid, 80, 2, packed=True),
            hostile_input.post_mutations(url, "/rank/batch", {"requests": [valid] * 2}, 50, 3, packed=True),
            hostile_input.post_mutations(
                url, "/items", {"items": [{"id": 7, "item_1": 3, "item_2": "w1"}]}, 80, 1
            ),
            hostile_input.call_operations(url, 10),
        ]
        after = httpx2.post(f"{url}/rank", json=valid)
    assert [(result.failed, result.hung, result.first) for result in results] == [(0, 0, "")] * 5
    assert sum(result.cases for result in results) > 250
    assert after.status_code == 200
