"""Bodies that would take much time or memory: they are refused by name, or take as long as they are large."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from corank.bundle.retrieval import mask_items
from corank.core.ragged import Ragged
from corank.features.operands import Operands
from corank.serving.funnel.request import MAX_CANDIDATES, MAX_EVENTS, MAX_FILTER_VALUES
from corank.serving.http.asgi import LONGEST_ERROR
from corank.serving.http.follower import Follower
from corank.serving.http.serve_settings import Limits
from corank.serving.http.worker import RankingService
from corank.serving.store.source import BundleSource
from tests.support.random_worlds import RICH
from tests.support.service import JSON, access
from tests.support.shared import shared_case


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    source = BundleSource(shared_case(RICH).base / "bundle")
    with TestClient(RankingService(Follower(source), Limits(), access()).app()) as client:
        yield client


def refusal(client: TestClient, **fields: Any) -> str:
    """Why a request is refused."""
    answer = client.post("/rank", json={"user": {}, "candidates": [1]} | fields)
    assert answer.status_code == 400
    return str(answer.json()["error"])


@pytest.mark.parametrize(
    "ids", [list(range(MAX_CANDIDATES - 1)), [f"{'x' * 300}{n}" for n in range(MAX_CANDIDATES - 1)]]
)
def test_one_repeated_candidate_among_many_is_named(client: TestClient, ids: list[Any]) -> None:
    assert f"{ids[-1]!r} is there twice" in refusal(client, candidates=[*ids, ids[-1]])


def test_a_list_has_a_largest_length(client: TestClient) -> None:
    for side in (
        {"user": {"history_0": [1] * (MAX_EVENTS + 1)}},
        {"candidates": [{"id": 1, "item_0": [1] * 10_001}]},
    ):
        assert "`array` of length <= 10000" in refusal(client, **side)
    fits = {"user": {"history_0": [1] * MAX_EVENTS}, "candidates": [1]}
    assert client.post("/rank", json=fits).status_code == 200


def test_a_filter_has_a_largest_number_of_values(client: TestClient) -> None:
    where = {"item_2": ["x"] * (MAX_FILTER_VALUES + 1)}
    assert "`array` of length <= 1000 - at `$.where" in refusal(client, where=where)
    assert "object of length <= 64" in refusal(client, where={str(n): 1 for n in range(65)}).replace("`", "")


def test_more_than_the_quotas_of_the_bundle_is_refused(client: TestClient) -> None:
    stages = client.get("/version").json()["stages"]
    keep = {stage["name"]: stage["keep"] for stage in stages}
    body = {"user": {}, "candidates": list(range(16)), "keep": keep}
    assert client.post("/rank", json=body).status_code == 200
    for name, most in keep.items():
        assert f"keep.{name}: expected {most} or less" in refusal(client, keep={name: most + 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"x" * 3_000_000: 1},
        {"candidates": [{"id": 1, "x" * 4096: 1}]},
        {"candidates": [{"id": 10**6, "item_1": ["x" * 4000] * 700}]},
        {"user": {"user_0": ["x" * 4000] * 700}},
        {"time": "x" * 4096},
    ],
)
def test_an_error_does_not_repeat_megabytes(client: TestClient, fields: dict[str, Any]) -> None:
    assert len(refusal(client, **fields)) < LONGEST_ERROR + 50


@pytest.mark.parametrize(
    "body",
    [
        b'{"user":{"id":' + b"[" * 1_500_000 + b"]" * 1_500_000 + b'},"candidates":[1]}',
        b'{"user":{"id":' + b'{"a":' * 700_000,
        b'{"user":{"id":' + b"9" * 4_000_000 + b'},"candidates":[1]}',
        b'{"user":{"id":1e' + b"9" * 4_000_000 + b'},"candidates":[1]}',
        b'{"user":{' + b",".join([b'"a":1'] * 600_000) + b'},"candidates":[1]}',
        b'{"user":{},"candidates":[' + b",".join([b"1"] * 2_000_000) + b"]}",
        b'{"user":{},"candidates":[1],"where":{"x":[' + b",".join([b"1"] * 1_900_000) + b"]}}",
        json.dumps({"user": {}, "candidates": [{"id": 1} | {f"c{n}": 1 for n in range(290_000)}]}).encode(),
    ],
)
def test_a_body_that_is_large_and_wrong_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/rank", content=body, headers=JSON).status_code == 400


def test_filters_by_many_values_find_what_filters_by_each_do() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 50, 500).astype(np.uint64)
    lists = Ragged.from_lengths(np.arange(500) % 4, rng.integers(1, 50, 750).astype(np.uint64))
    operands = Operands(500, {"one": keys}, {"some": lists}, {})
    values = tuple(range(1, 50, 7))
    rows = np.split(lists.flat(), np.cumsum(np.arange(500) % 4)[:-1])
    mask = mask_items(operands, (("one", values), ("some", values)))
    wanted = [int(keys[n]) in values and bool({*rows[n].tolist()} & {*values}) for n in range(500)]
    assert mask.tolist() == wanted and 0 < sum(wanted) < 500


def test_a_body_has_a_largest_number_of_values_and_objects(client: TestClient) -> None:
    many = {"user": {}, "candidates": [{"id": n} | {f"c{m}": 1 for m in range(30)} for n in range(10_000)]}
    answer = client.post("/rank", json=many)
    assert answer.status_code == 400
    assert answer.json()["error"] == "body: expected 250,000 values or fewer; received 310,000"
    events = [{"id": 1, "time": 1}] * 10_000
    user = dict.fromkeys(("history_0", "history_1", "history_2"), events)
    answer = client.post("/rank", json={"user": user, "candidates": [1]})
    assert answer.json()["error"] == "body: expected 25,000 objects or fewer; received 30,002"
