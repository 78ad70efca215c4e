"""What a request holds is checked before it is ranked: times, types, vectors, and how much there is of each."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from corank.bundle.retrieval import mask_items
from corank.core.errors import RequestError
from corank.core.ragged import Ragged, Rows
from corank.core.time import now_ms
from corank.features.operands import Operands
from corank.funnel.random_requests import make_example
from corank.funnel.request import MAX_CANDIDATES, MAX_EVENTS, MAX_FILTER_VALUES, Request
from corank.funnel.request_reader import check_event_times
from corank_serve.http.asgi import LONGEST_ERROR
from corank_serve.http.follower import Follower
from corank_serve.http.ranking import check_clock
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.log.request_log import RequestLog
from corank_serve.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.service import JSON, access
from tests.support.shared import derived, shared_case
from tests.support.stores import requests

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
NOW = now_ms()


def rank(**changes: Any) -> dict[str, Any]:
    return derived().funnel.rank(Request.parse(requests()[0] | changes))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    follower = Follower(BundleSource(derived().base / "bundle"), 100.0)
    service = RankingService(follower, Limits(clock_skew=DAY), access(), request_log=RequestLog(tmp_path))
    with TestClient(service.app()) as http:
        yield http


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (253_402_300_799_000, "more than 1 day"),
        (-(2**63), "more than 1 day"),
        ("9999-12-31T23:59:59", "more than 1 day"),
        (NOW - DAY_MS - HOUR_MS, "more than 1 day"),
        (NOW + DAY_MS + HOUR_MS, "more than 1 day"),
        (NOW // 1000, "is in seconds, it seems; write milliseconds"),
        (NOW * 1000, "is in microseconds, it seems"),
        (NOW * 10**6, "is in nanoseconds, it seems"),
    ],
    ids=str.split("year-9999 least text early late seconds microseconds nanoseconds"),
)
def test_a_time_far_from_now_is_refused(time: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^time: .*{message}"):
        check_clock(Request(user={}, time=time), DAY)


def test_a_time_near_now_is_served() -> None:
    for time in (None, NOW, NOW - DAY_MS + HOUR_MS, NOW + DAY_MS - HOUR_MS):
        check_clock(Request(user={}, time=time), DAY)


def test_the_service_refuses_it_and_in_process_any_time_is_ranked(client: TestClient) -> None:
    """Old logs are evaluated in process."""
    response = client.post("/rank", json=requests()[0])
    assert response.status_code == 400 and response.json()["error"].startswith("time: ")
    assert rank()["items"]
    body = requests()[0] | {"time": None, "user": with_history([5, 2**62])}
    answer = client.post("/rank", json=body)
    assert answer.status_code == 200 and len(answer.json()["warnings"]) == 1
    figures = client.get("/metrics").text
    assert 'corank_warnings_total{kind="future"} 1.0' in figures and "corank_log_dropped_total 0.0" in figures


def test_values_are_of_the_logs_types() -> None:
    for id_ in ([1, 2], {"id": 1}, "ann", 1.5, True):
        with pytest.raises(
            RequestError, match=r"^user\.id: expected whole numbers, as in the log; received "
        ):
            rank(user={"id": id_})
    for bid in ("1", [1], 1e39, -1e39, None, True):
        with pytest.raises(RequestError, match=r"^candidates: .*'bid'"):
            rank(candidates=[{"id": 3, "bid": bid}])


def with_history(times: list[int]) -> dict[str, Any]:
    """A user whose second history, which has a half-life, has events of these times."""
    user: dict[str, Any] = requests()[0]["user"]
    return user | {"history_1": [{"id": 3, "time": time} for time in times]}


def test_events_after_the_request_and_out_of_order_are_told() -> None:
    time = requests()[0]["time"]
    assert "warnings" not in rank()
    assert "warnings" not in rank(user=with_history([time - 5, time - 5, time]))
    (warning,) = rank(user=with_history([time - 5, time + 1, time + 2]))["warnings"]
    assert warning.startswith("user.history_1: 2 of 3 events are after the request")
    (warning,) = rank(user=with_history([time - 5, time - 6]))["warnings"]
    assert warning == "user.history_1: events are not in the order of time, the newest last"


def test_events_in_seconds_or_beyond_64_bits_are_refused() -> None:
    for times in ([NOW // 1000], [NOW - 5, NOW // 1000 - 3600]):
        with pytest.raises(
            RequestError, match=rf"^history.{len(times) - 1}.time: .* is in seconds, it seems"
        ):
            check_event_times("history", np.array(times), NOW)
    with pytest.raises(RequestError, match=r"^user\.history_1: a time is beyond 64 bits"):
        rank(user=with_history([2**70]))


@pytest.fixture(scope="module")
def rich() -> Iterator[TestClient]:
    source = BundleSource(shared_case(RICH).base / "bundle")
    with TestClient(RankingService(Follower(source), Limits(), access()).app()) as http:
        yield http


def refusal(rich: TestClient, **fields: Any) -> str:
    """Why a request is refused."""
    answer = rich.post("/rank", json={"user": {}, "candidates": [1]} | fields)
    assert answer.status_code == 400
    return str(answer.json()["error"])


def test_one_repeated_candidate_among_many_is_named(rich: TestClient) -> None:
    for ids in (range(MAX_CANDIDATES - 1), [f"{'x' * 300}{n}" for n in range(MAX_CANDIDATES - 1)]):
        assert f"{ids[-1]!r} is there twice" in refusal(rich, candidates=[*ids, ids[-1]])


def test_lists_filters_and_quotas_have_a_largest_length(rich: TestClient) -> None:
    long = "`array` of length <= 10000"
    assert long in refusal(rich, user={"history_0": [1] * (MAX_EVENTS + 1)})
    assert long in refusal(rich, candidates=[{"id": 1, "item_0": [1] * 10_001}])
    fits = {"user": {"history_0": [1] * MAX_EVENTS}, "candidates": [1]}
    assert rich.post("/rank", json=fits).status_code == 200

    where = {"item_2": ["x"] * (MAX_FILTER_VALUES + 1)}
    assert "`array` of length <= 1000 - at `$.where" in refusal(rich, where=where)
    assert "object of length <= 64" in refusal(rich, where={str(n): 1 for n in range(65)}).replace("`", "")

    stages = rich.get("/version").json()["stages"]
    keep = {stage["name"]: stage["keep"] for stage in stages}
    for name, most in keep.items():
        assert f"keep.{name}: expected {most} or less" in refusal(rich, keep={name: most + 1})


def test_an_error_does_not_repeat_megabytes(rich: TestClient) -> None:
    described: list[dict[str, Any]] = [{"x" * 4096: 1}, {"item_1": ["x" * 4000] * 700}]
    bodies: list[dict[str, Any]] = [
        {"x" * 3_000_000: 1},
        *({"candidates": [{"id": 10**6} | columns]} for columns in described),
        {"user": {"user_0": ["x" * 4000] * 700}},
        {"time": "x" * 4096},
    ]
    for fields in bodies:
        assert len(refusal(rich, **fields)) < LONGEST_ERROR + 50


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
def test_a_body_that_is_large_and_wrong_is_refused(rich: TestClient, body: bytes) -> None:
    assert rich.post("/rank", content=body, headers=JSON).status_code == 400


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


def test_a_body_has_a_largest_number_of_values_and_objects(rich: TestClient) -> None:
    many = {"user": {}, "candidates": [{"id": n} | {f"c{m}": 1 for m in range(30)} for n in range(10_000)]}
    answer = rich.post("/rank", json=many)
    assert answer.status_code == 400
    assert answer.json()["error"] == "body: expected 250,000 values or fewer; received 310,000"
    events = [{"id": 1, "time": 1}] * 10_000
    user = dict.fromkeys(("history_0", "history_1", "history_2"), events)
    answer = rich.post("/rank", json={"user": user, "candidates": [1]})
    assert answer.json()["error"] == "body: expected 25,000 objects or fewer; received 30,002"


ODD_VECTORS: list[tuple[Any, str]] = [
    ([1.0, 2.0], "expected 3 numbers, as features.item_4.dim says; received 2"),
    ([0.5] * 10_000, "expected 3 numbers, as features.item_4.dim says; received 10000"),
    ([1.0, 2.0, float("nan")], "must be finite"),
    ([1.0, 2.0, 1e39], "must be finite, in 32 bits"),
    ([1.0, 2.0, -1e5], "too large for the 16 bits"),
    ([1.0, 2.0, None], "must be finite"),
    (["a", "b", "c"], "expected a list of 3 numbers"),
    (7, "expected a list of 3 numbers"),
    (True, "expected a list of 3 numbers"),
    ([[1.0], [2.0], [3.0]], "expected a list of 3 numbers"),
    ([True, False, True], "expected a list of 3 numbers"),
    ([10**400, 1.0, 2.0], "item_4"),
    ([2**70, 1, 2], "item_4"),
    ([1.0, "2", 3.0], "item_4"),
]


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


def item_rows(case: Case, vector: Any) -> Rows:
    layer = case.funnel.request_encoder.encode_items([77], [{"item_4": vector, "worth": 1.0}])
    return layer.records.rows


def test_a_vector_that_cannot_be_kept_is_refused_with_its_field(case: Case) -> None:
    for vector, message in ODD_VECTORS:
        with pytest.raises(RequestError) as caught:
            item_rows(case, vector)
        assert message in str(caught.value) and len(str(caught.value)) < 400
    wrong: list[Any] = [[1.0, 2.0], ["a", "b", "c"], 7, [1.0, 2.0, 1e39]]
    for vector in wrong:
        with pytest.raises(RequestError, match=r"context\.context_1: "):
            case.funnel.rank(Request(user={}, context={"context_1": vector}, candidates=[1, 2]))


def test_whole_numbers_among_floats_nulls_and_zeros_are_taken(case: Case) -> None:
    for vector in ([1, 2.5, 3], [1, 2, 3]):
        assert item_rows(case, vector).vectors[1].dense().tolist() == [vector]
    for missing in (None, [0, 0, 0]):
        assert item_rows(case, missing).vectors[1].row.tolist() == [-1]


def test_an_example_request_and_an_item_show_vectors(case: Case) -> None:
    request = make_example(case.funnel, np.random.default_rng(0))
    assert len(request["context"]["context_1"]) == 3
    assert case.funnel.rank(Request.parse(request))["items"]
    described = [case.funnel.describe_item(str(n)) for n in range(8)]
    vectors = [item["features"]["item_4"] for item in described if item is not None]
    assert all(vector is None or len(vector) == 3 for vector in vectors)
    assert any(vectors)
