"""Worker processes that die or cannot start, and what the gauges of the others say."""

import os
import re
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import psutil
import pytest

from corank.core.errors import CorankError
from corank_serve.http.process import arbiter
from corank_serve.http.process.arbiter import ServiceArbiter
from corank_serve.http.process.listener import bind_listener
from corank_serve.http.process.worker_process import Drain, WorkerMain
from corank_serve.store.base import open_store
from corank_serve.store.publish import publish_bundle
from tests.support.service import TOKEN, running_service, workers_of
from tests.support.shared import derived
from tests.support.waiting import eventually
from tests.support.worker_mains import die_once_served, fail_at_once, fail_with_a_reason, hang_once_served

pytestmark = pytest.mark.slow


def supervise(main: WorkerMain, report: Callable[[str], None]) -> list[int]:
    """Run two workers; return the ids of those that ended."""
    ended: list[int] = []
    with bind_listener("127.0.0.1", 0) as listener:
        ServiceArbiter(2, main, Drain(), report, ended.append).serve(listener)
    return ended


def test_workers_that_cannot_start_stop_the_service_and_say_why() -> None:
    reports = list[str]()
    with pytest.raises(CorankError, match="a worker ended with exit code 7 before it served"):
        supervise(fail_at_once, reports.append)
    assert not reports
    with pytest.raises(CorankError, match=r"^shop: not a bundle$"):
        supervise(fail_with_a_reason, lambda line: None)


def test_workers_that_die_again_and_again_are_replaced_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arbiter, "STEADY_SECONDS", 3600.0)  # on a busy machine the start of one takes long
    reports = list[str]()

    def report(line: str) -> None:
        reports.append(line)
        if len(reports) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    ended = supervise(die_once_served, report)
    assert len(ended) >= 4
    restarts = [re.findall(r"exit code (\d+); another starts in (\S+) s", line) for line in reports[:4]]
    assert restarts == [[("9", pause)] for pause in ("0", "1", "2", "4")]


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    reports = list[str]()

    def report(line: str) -> None:
        reports.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    with bind_listener("127.0.0.1", 0) as listener:
        arbiter = ServiceArbiter(1, hang_once_served, Drain(), report)
        arbiter.timeout = 1  # seconds, in looks of a tenth
        arbiter.serve(listener)
    assert re.fullmatch(r"worker \d+ ended with exit code -6; another starts in 0 s", reports[0])


def gauge(url: str, name: str) -> float:
    """A gauge as one of the workers exposes it."""
    (value,) = re.findall(rf"^{name} (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    return float(value)


def test_gauges_are_right_without_a_request_and_after_the_death_of_a_worker(tmp_path: Path) -> None:
    address = f"lmdb:{tmp_path / 'store'}"
    with closing(open_store(address, create=True)) as store:
        publish_bundle(derived().base / "bundle", store)
    with running_service(address, tmp_path / "cache", "--every", "0.1", workers=2) as (url, process):

        def serving() -> set[int]:
            return {worker.pid for worker in workers_of(process)}

        eventually(lambda: len(serving()) == 2)
        eventually(lambda: gauge(url, "corank_ready") == 1 and gauge(url, "corank_items_seq") == 1)
        before = serving()
        os.kill(min(before), signal.SIGKILL)
        put = httpx2.post(f"{url}/items", json={"items": [{"id": 1}]}, headers=TOKEN)
        assert put.status_code == 200, put.text
        eventually(lambda: gauge(url, "corank_items_seq") == 2)
        eventually(lambda: len(serving()) == 2 and serving() != before)
        eventually(lambda: gauge(url, "corank_items_seq") == 2 and gauge(url, "corank_ready") == 1)
        eventually(lambda: gauge(url, "corank_source_up") == 1)
        eventually(lambda: gauge(url, "corank_behind_seconds") < 30)
        assert psutil.pid_exists(process.pid)
