"""The service in process, over its real app; that it runs as a command is in test_server.py."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import msgspec
import numpy as np
import polars as pl
import pytest
from starlette.testclient import TestClient

from corank.bundle.graph_files import RUNTIME_ERRORS
from corank.funnel import funnel as funnel_module
from corank.funnel.deadlines import DeadlineTimer
from corank.funnel.funnel import Funnel
from corank.funnel.request import Request
from corank.funnel.stage_scorer import PartsScorer
from corank_serve.http.follower import Follower
from corank_serve.http.ranking import REMEMBERED_BYTES
from corank_serve.http.serve_settings import Limits
from corank_serve.http.user_lookup import UserLookup
from corank_serve.http.worker import RankingService
from corank_serve.store.base import open_store
from corank_serve.store.live_version import USERS
from corank_serve.store.publish import publish_bundle
from corank_serve.store.record_codec import to_keys
from corank_serve.store.source import BundleSource, Source, StoreSource
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.redis_server import redis_server
from tests.support.service import JSON, TOKEN, access
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def bundle(case: Case) -> Path:
    return case.base / "bundle"


def serving(source: Source, limits: Limits | None = None, **parts: Any) -> TestClient:
    """The client of a service in process."""
    follower = Follower(source, every=0.05)
    return TestClient(RankingService(follower, limits or Limits(), access(), **parts).app())


@pytest.fixture
def client(bundle: Path) -> Iterator[TestClient]:
    with serving(BundleSource(bundle)) as client:
        yield client


@pytest.fixture
def of_store(bundle: Path, tmp_path: Path) -> Iterator[TestClient]:
    with closing(open_store(f"lmdb:{tmp_path / 'store'}", create=True)) as store:
        publish_bundle(bundle, store)
        with serving(StoreSource(store, tmp_path / "cache")) as client:
            yield client


def test_answers_are_those_of_the_funnel_in_process(client: TestClient, case: Case) -> None:
    for number in range(6):
        request = case.request("test", number)
        answer = client.post("/rank", json=request).json()
        ours = case.funnel.rank(Request.parse(request))
        assert answer.pop("user") == "given"
        assert set(answer.pop("microseconds")) == {"receive", "prerank", "rank"}
        assert answer == msgspec.json.decode(msgspec.json.encode(ours))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 100_000, "body: Expected `object`"),
        (b'{"user": {}}', "candidates: none are given, and the bundle has no `retrieval`"),
        (b'{"user": {}, "candidates": [1], "trase": true}', "body: Object contains unknown field `trase`"),
        (b'{"user": {"id": NaN}, "candidates": [1]}', "body: JSON is malformed"),
        (b'{"user": {}, "candidates": [1, 1]}', "candidates: 1 is there twice"),
        (b'{"user": {}, "candidates": ["x"]}', "candidates: ids are of another type"),
        (b'{"user": {"nme": 3}, "candidates": [1]}', "user: the bundle knows no 'nme' here"),
        (b'{"user": {}, "candidates": [1], "keep": {"ranker": 5}}', "keep: no stage 'ranker'"),
        (b'{"user": {}, "candidates": [1], "time": "yesterday"}', "time: expected ISO 8601"),
        (b'{"user": {"user_0": "\xff"}, "candidates": [1]}', "body: "),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_field(
    client: TestClient, body: bytes, message: str
) -> None:
    refused = client.post("/rank", content=body, headers=JSON)
    assert (refused.status_code, refused.json()["error"][: len(message)]) == (400, message)


def test_a_body_has_a_largest_size_whether_its_length_is_told_or_not(bundle: Path) -> None:
    with serving(BundleSource(bundle), Limits(body=1000)) as client:
        assert client.post("/rank", content=b" " * 1001, headers=JSON).status_code == 413
        pieces = (b" " * 100 for _ in range(11))
        assert client.post("/rank", content=pieces, headers=JSON).status_code == 413
        assert client.post("/rank", json={"user": {}, "candidates": [1]}).status_code == 200


def test_items_that_come_are_ranked_at_once_and_named_by_the_answer(of_store: TestClient, case: Case) -> None:
    columns = {"item_0": [3], "item_1": 7, "item_2": "w3"}
    asked = case.request("test", 0) | {"trace": False}
    asked["candidates"] = [{"id": 900} | {c: v for c, v in asked["candidates"][0].items() if c != "id"}]
    before = of_store.post("/rank", json=asked).json()
    assert (before["unknown"], before["items_seq"]) == ([900], 1)
    put = of_store.post("/items", json={"items": [{"id": 900, **columns}]}, headers=TOKEN)
    assert (put.status_code, put.json()) == (200, {"items": 1, "items_seq": 2})
    after = of_store.post("/rank", json=asked).json()
    assert (after["unknown"], after["items_seq"]) == ([], 2)
    described = asked | {"candidates": [asked["candidates"][0] | columns]}
    (ours,) = case.funnel.rank(Request.parse(described))["items"]
    np.testing.assert_allclose(after["items"][0]["score"], ours["score"], rtol=0, atol=1e-6)
    shown = of_store.get("/item", params={"id": "900"}).json()
    assert shown["newer"] and shown["features"]["item_0"] == [3]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"item_1": 7}], "items.0: needs an `id`"),
        ([{"id": 5}, {"id": 5}], "items.1: 5 is there twice"),
        ([{"id": 5, "item_1": "seven"}], "feature 'item_1': expected numbers"),
        ([{"id": 5, "item_0": [{"a\0b": 3}]}], "items: 'item_0': expected a value or a list of values"),
        ([{"id": 5, "item_1": {"a\0b": 3}}], "body: "),
    ],
)
def test_unsound_items_change_nothing(of_store: TestClient, items: list[Any], message: str) -> None:
    refused = of_store.post("/items", json={"items": items}, headers=TOKEN)
    assert (refused.status_code, refused.json()["error"][: len(message)]) == (400, message)
    assert of_store.get("/version").json()["items_seq"] == 1


def test_a_bundle_takes_no_items(client: TestClient) -> None:
    refused = client.post("/items", json={"items": [{"id": 1}]}, headers=TOKEN)
    assert refused.status_code == 409 and "corank publish" in refused.json()["error"]


def test_more_requests_than_may_wait_are_sent_away(bundle: Path) -> None:
    """Forty at once, of which the first eight may wait; whoever is refused learns when to retry."""
    service = RankingService(Follower(BundleSource(bundle)), Limits(queue=8), access(None))
    app, body = service.app(), {"user": {}, "candidates": list(range(16))}

    async def all_at_once() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://here") as client:
            answers = await asyncio.gather(*(client.post("/rank", json=body) for _ in range(40)))
            assert (await client.post("/rank", json=body)).status_code == 200
            return answers

    answers = asyncio.run(all_at_once())
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503} and statuses[200] >= 8
    assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 503} == {"1"}
    assert f"corank_shed_total {statuses[503]}.0" in service.metrics.expose()[0].decode()
    assert service.ranking.waiting == 0


def test_health_version_figures_and_openapi(client: TestClient, case: Case) -> None:
    assert client.get("/healthz").json() == {"alive": True}
    content = case.funnel.manifest.content
    assert client.get("/readyz").json() == {"ready": True, "version": content, "pinned": False}
    version = client.get("/version").json()
    assert version["model_version"] == case.funnel.manifest.model_version
    assert version["items"] == 16 and [s["name"] for s in version["stages"]] == ["prerank", "rank"]
    client.post("/rank", json=case.request("test", 0))
    figures = client.get("/metrics").text
    assert 'corank_stage_seconds_count{stage="rank"} 1.0' in figures
    assert f'corank_version{{model_version="{version["model_version"]}"}} 1.0' in figures
    assert set(client.get("/openapi.json").json()["paths"]) >= {"/rank", "/items", "/version"}


@pytest.mark.store
def test_a_server_that_stops_is_served_on_without(bundle: Path, tmp_path: Path) -> None:
    with redis_server(tmp_path, keeps=True) as server:
        store = open_store(server.url)
        publish_bundle(bundle, store)
        store.put({USERS: [(to_keys(pl.Series([1]))[0], b'{"user_0": 5.0}')]})
        users = UserLookup(lambda: store, PATIENCE)
        with serving(StoreSource(store, tmp_path / "cache"), users=users) as client:

            def await_status(**expected: Any) -> None:
                eventually(lambda: client.get("/status").json().items() >= expected.items())

            asked = {"user": {"id": 1}, "candidates": [1]}
            assert client.post("/rank", json=asked).json()["user"] == "stored"
            assert client.post("/rank", json=asked | {"user": {"id": 2}}).json()["user"] == "new"
            server.stop()
            assert client.post("/rank", json=asked).json()["user"] == "unavailable"
            await_status(source_up=False)
            assert "127.0.0.1" in client.get("/status").json()["source_error"]
            assert client.get("/readyz").json()["ready"]
            assert client.post("/rank", json={"user": {}, "candidates": [1]}).status_code == 200
            put = client.post("/items", json={"items": [{"id": 900}]}, headers=TOKEN)
            assert (put.status_code, put.headers["Retry-After"]) == (503, "1")
            server.start()
            await_status(source_up=True, source_error=None, users_looked_up=True)
            assert client.post("/rank", json=asked).json()["user"] == "stored"
            assert client.post("/items", json={"items": [{"id": 900}]}, headers=TOKEN).status_code == 200


@pytest.mark.slow
def test_a_bundle_that_is_exported_anew_goes_live(case: Case, tmp_path: Path) -> None:
    from corank.training.export import export_bundle

    path = Path(shutil.copytree(case.base / "bundle", tmp_path / "bundle"))
    with serving(BundleSource(path)) as client:
        assert client.get("/version").json()["items_seq"] == 1
        export_bundle(path, case.config, case.packed, case.model, case.calibrators)
        eventually(lambda: client.get("/version").json()["items_seq"] == 2)


class Broken:
    """A graph that the runtime cannot run."""

    def run(self, *_: Any) -> Any:
        raise RUNTIME_ERRORS[0]("broken")


def test_late_and_failing_rankers_leave_the_order_to_the_first_stage(case: Case) -> None:
    funnel = Funnel.open(case.base / "bundle")
    request, funnel._timer = Request.parse(case.request("test", 0)), DeadlineTimer()
    first, last = funnel.manifest.stages
    alone = funnel.run(request).cuts[0]
    for stage, why in ((last.model_copy(update={"deadline_ms": 1e-6}), "skipped"), (last, "failed")):
        if why == "failed":
            ranker = funnel.scorer.stages["rank"]
            assert isinstance(ranker, PartsScorer)
            ranker.session = Broken()
        funnel.manifest = funnel.manifest.model_copy(update={"stages": [first, stage]})
        answer = funnel.run(request).to_answer()
        assert answer["fallback"] == {"stage": "rank", "why": why} and answer["stage"] == "prerank"
        best = alone.alive[alone.kept][: last.keep].tolist()
        (received,) = funnel.encode(request).requests
        assert [item["id"] for item in answer["items"]] == [received.candidates[n] for n in best]


def test_a_ranker_that_takes_too_long_is_stopped(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of candidates take the ranker seconds; it is stopped between two layers, once its time is over."""
    now = [0.0]
    monkeypatch.setattr(funnel_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    funnel = Funnel.open(case.base / "bundle")
    first, last = funnel.manifest.stages
    late = last.model_copy(update={"deadline_ms": 100.0, "keep": 10})
    wide = first.model_copy(update={"keep": 100_000})
    funnel.manifest = funnel.manifest.model_copy(update={"stages": [wide, late]})
    funnel._timer = DeadlineTimer()
    ranker = funnel.scorer.stages["rank"]
    assert isinstance(ranker, PartsScorer)
    real = ranker.session

    class Slow:
        def run(self, outputs: list[str], inputs: dict[str, Any], options: Any = None) -> Any:
            many = {
                name: value if name in ("query", "mask", "event") else np.repeat(value, 200_000, axis=0)
                for name, value in inputs.items()
            }
            now[0] = 1.0
            while True:
                real.run(outputs, many, options)

    ranker.session = Slow()
    everyone = case.items["item_id"].to_list()
    ranked = funnel.run(Request.parse(case.request("test", 0) | {"candidates": everyone}))
    assert ranked.fallback == {"stage": "rank", "why": "late"}
    assert ranked.to_answer()["stage"] == "prerank"


def test_a_large_request_is_ranked_and_not_remembered(bundle: Path) -> None:
    service = RankingService(Follower(BundleSource(bundle)), Limits(), access(None))
    with TestClient(service.app()) as client:
        small = {"user": {}, "candidates": [1]}
        large = small | {"candidates": [1, *range(10**9, 10**9 + REMEMBERED_BYTES // 11)]}
        for body in (small, large):
            assert client.post("/rank", json=body).status_code == 200
    assert [[*(request.candidates or ())] for request in service.follower.recent] == [[1]]
