"""The request that the demo leaves: the service that it prints takes it, a day later, too, and by a wrong clock."""

import json
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from corank.core.time import now_ms
from corank.training.run import Run
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.store.source import BundleSource
from tests.support.command_line import run_corank
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
PAGES = (
    "scripts/demo",
    "docs/start/five-minutes.md",
    "docs/start/five-minutes.zh-CN.md",
    "docs/guides/chance.md",
)


@pytest.fixture
def client(trained_bundle: Path) -> Iterator[TestClient]:
    skew = Limits(seconds=PATIENCE, clock_skew=timedelta(hours=1))
    with TestClient(
        RankingService(Follower(BundleSource(trained_bundle)), skew).app(), "http://127.0.0.1"
    ) as client:
        yield client


def options(page: str) -> list[str]:
    """What a page gives `corank request`, besides the run."""
    (line,) = re.findall(
        r"^(?:step|corank) request (.+?)(?: *[>|].*)?$", (ROOT / page).read_text("utf-8"), re.M
    )
    return shlex.split(line)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_service_takes_the_request_that_is_left(
    page: str,
    trained: Run,
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, written, err = run_corank(capsys, "request", trained.folder, *options(page))
    assert code == 0, err
    for later in (0, DAY_MS, -DAY_MS):
        for module in ("corank_serve.http.ranking", "corank.funnel.request"):
            monkeypatch.setattr(f"{module}.now_ms", lambda later=later: now_ms() + later)
        answer = client.post("/rank", json=json.loads(written))
        assert answer.status_code == 200 and answer.json()["items"]


@pytest.mark.slow
def test_a_request_with_the_time_of_the_log_is_refused(
    trained: Run, client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    _, written, _ = run_corank(capsys, "request", trained.folder)
    answer = client.post("/rank", json=json.loads(written))
    assert answer.status_code == 400 and "corank request --now" in answer.text
