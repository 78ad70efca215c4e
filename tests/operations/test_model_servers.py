"""The recipe for another server: Ray Serve answers as the funnel does."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

import corank
from corank.training.run import Run
from tests.support.ports import free_port
from tests.support.ray_start import start_ray
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture
def address(trained_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of Ray Serve with the example."""
    pytest.importorskip("grpc_reflection", reason="ray[serve]")
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(PATIENCE))
    from ray import serve

    from examples.operations.ray_serve import app

    port = free_port()
    with start_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"source": str(trained_bundle)}))
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_serve_answers_as_the_funnel_does(address: str, trained: Run, trained_bundle: Path) -> None:
    requests = [corank.request(trained.folder, number=n) for n in range(12)]
    funnel = corank.Funnel.open(trained_bundle)
    with ThreadPoolExecutor(len(requests)) as clients:
        answers = [*clients.map(lambda one: httpx2.post(address, json=one), requests)]
    for request, answer in zip(requests, answers, strict=True):
        assert answer.status_code == 200
        expected, received = funnel.rank(request), answer.json()
        assert [one["id"] for one in received["items"]] == [one["id"] for one in expected["items"]]
        assert [one["score"] for one in received["items"]] == pytest.approx(
            [one["score"] for one in expected["items"]], abs=1e-6
        )
        assert received["model_version"] == expected["model_version"]
    refused = httpx2.post(address, json={"candidates": [1]})
    assert (refused.status_code, refused.json()) == (400, {"error": "request: user: required, but not given"})
