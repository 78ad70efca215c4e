"""Serving from Python: the service in this process, which continues after it; and a funnel of a store."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

import corank
from corank.core.errors import CorankError
from corank.training.run import Run
from corank.training.run_file import RunFile
from corank_serve.api.serving import locate_bundle
from tests.support.ports import free_port
from tests.support.redis_server import redis_server
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {"user": {"id": 7}, "candidates": [3, 11, 24]}


def scores(answer: dict[str, Any]) -> dict[int, float]:
    """The score of each remaining candidate."""
    return {item["id"]: item["score"] for item in answer["items"]}


def test_the_bundle_of_a_run_is_exported_once_and_goes_when_it_is_trained_anew(
    trained: Run, tmp_path: Path
) -> None:
    run, said = shutil.copytree(trained.folder, tmp_path / "run"), list[str]()
    record = RunFile.read(trained.folder)
    RunFile(config=record.config, base=str(trained.base), packed=record.packed).write(run)
    bundle = locate_bundle(str(run), said.append)
    assert bundle == locate_bundle(bundle, said.append) == str(run / "bundle")
    written = (run / "bundle" / "manifest.json").stat().st_mtime_ns
    assert locate_bundle(str(run), said.append) == bundle and len(said) == 1
    assert (run / "bundle" / "manifest.json").stat().st_mtime_ns == written
    assert corank.Funnel.open(bundle).rank(REQUEST)["items"]
    Run.create(run, trained.config, trained.base)
    with pytest.raises(CorankError, match="training has not finished"):
        locate_bundle(str(run), said.append)
    assert not (run / "bundle" / "manifest.json").exists()


def test_a_service_starts_answers_and_ends_and_the_process_goes_on(trained_bundle: Path) -> None:
    port, answers, said = free_port(), list[dict[str, Any]](), list[str]()
    switch = sys.getswitchinterval()

    def ask_and_interrupt() -> None:
        """Send one request when the service is up, then end it as Ctrl-C does."""

        def answered() -> bool:
            with suppress(httpx2.HTTPError):
                url = f"http://127.0.0.1:{port}/rank"
                answers.append(httpx2.post(url, json=REQUEST, timeout=PATIENCE).json())
            return bool(answers)

        try:
            eventually(answered)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    asking = threading.Thread(target=ask_and_interrupt)
    asking.start()
    corank.serve(trained_bundle, said.append, port=port, workers=1, drain_seconds=0)
    asking.join()
    assert scores(answers[0]) == pytest.approx(
        scores(corank.Funnel.open(trained_bundle).rank(REQUEST)), abs=1e-5
    )
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers), "one would end this process"
    assert sys.getswitchinterval() == switch
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/healthz")


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.store)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store."""
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path / 'store'}"
    else:
        with redis_server(tmp_path) as server:
            yield server.url


def test_a_funnel_of_a_store_ranks_as_its_bundle(address: str, trained_bundle: Path, tmp_path: Path) -> None:
    version = corank.publish(trained_bundle, address).version
    funnel = corank.Funnel.open(address, cache=tmp_path / "cache")
    assert funnel.manifest.content == version
    request = REQUEST | {"time": "2026-03-11"}
    assert funnel.rank(request)["items"] == corank.Funnel.open(trained_bundle).rank(request)["items"]
