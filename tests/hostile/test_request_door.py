"""What a request says of time, types and filters is checked before it is ranked, and silent faults are reported."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from corank.core.errors import RequestError
from corank.core.time import now_ms
from corank.serving.funnel.request import Request, check_event_times
from corank.serving.http.follower import Follower
from corank.serving.http.ranking import check_clock
from corank.serving.http.serve_settings import Limits
from corank.serving.http.worker import RankingService
from corank.serving.log.request_log import RoleLogs
from corank.serving.store.source import BundleSource
from corank.serving.store.users import UserStore
from tests.support.service import access
from tests.support.shared import derived
from tests.support.stores import opened, requests

DAY = timedelta(days=1)
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
NOW = now_ms()


def rank(**changes: Any) -> dict[str, Any]:
    return derived().funnel.rank(Request.parse(requests()[0] | changes))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    follower = Follower(BundleSource(derived().base / "bundle"), 100.0)
    service = RankingService(follower, Limits(clock_skew=DAY), access(), request_log=RoleLogs(tmp_path))
    with TestClient(service.app()) as http:
        yield http


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (253_402_300_799_000, "more than 1 day"),
        (2**63 - 1, "more than 1 day"),
        (-(2**63), "more than 1 day"),
        ("9999-12-31T23:59:59", "more than 1 day"),
        (NOW - DAY_MS - HOUR_MS, "more than 1 day"),
        (NOW + DAY_MS + HOUR_MS, "more than 1 day"),
        (NOW // 1000, "is in seconds, it seems; write milliseconds"),
        (NOW * 1000, "is in microseconds, it seems"),
        (NOW * 10**6, "is in nanoseconds, it seems"),
    ],
    ids=str.split("year-9999 largest least text early late seconds microseconds nanoseconds"),
)
def test_a_time_far_from_now_is_refused(time: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^time: .*{message}"):
        check_clock(Request(user={}, time=time), DAY)


@pytest.mark.parametrize(
    "time",
    [None, NOW, NOW - DAY_MS + HOUR_MS, NOW + DAY_MS - HOUR_MS],
    ids=["none", "now", "earlier", "later"],
)
def test_a_time_near_now_is_served(time: Any) -> None:
    check_clock(Request(user={}, time=time), DAY)


def test_the_service_refuses_it_and_in_process_any_time_is_ranked(client: TestClient) -> None:
    """Old logs are evaluated in process."""
    response = client.post("/rank", json=requests()[0])
    assert response.status_code == 400 and response.json()["error"].startswith("time: ")
    assert rank()["items"]
    body = requests()[0] | {"time": None}
    assert client.post("/rank", json=body).status_code == 200


@pytest.mark.parametrize("id_", [[1, 2], {"id": 1}, "ann", 1.5, True])
def test_an_id_of_a_user_is_of_the_logs_type(id_: Any) -> None:
    with pytest.raises(RequestError, match=r"^user\.id: expected whole numbers, as in the log; received "):
        rank(user={"id": id_})


def test_an_id_that_no_store_can_hold_is_no_user(tmp_path: Path) -> None:
    """Its look-up must not count as a failure of the store."""
    with opened("lmdb", tmp_path) as store:
        for id_ in (2**64, -(2**70), [1], None, True):
            assert UserStore(store).find(id_) is None


@pytest.mark.parametrize("bid", ["1", [1], 1e39, -1e39, None, True])
def test_a_value_is_a_number_that_training_can_read(bid: Any) -> None:
    with pytest.raises(RequestError, match=r"^candidates: .*'bid'"):
        rank(candidates=[{"id": 3, "bid": bid}])


def with_history(times: list[int]) -> dict[str, Any]:
    """A user whose first history, which has a half-life, has events of these times."""
    user: dict[str, Any] = requests()[0]["user"]
    return user | {"history_0": [{"id": 3, "time": time} for time in times]}


def test_events_after_the_request_and_out_of_order_are_told() -> None:
    time = requests()[0]["time"]
    assert "warnings" not in rank()
    assert "warnings" not in rank(user=with_history([time - 5, time - 5, time]))
    (warning,) = rank(user=with_history([time - 5, time + 1, time + 2]))["warnings"]
    assert warning.startswith("user.history_0: 2 of 3 events are after the request")
    (warning,) = rank(user=with_history([time - 5, time - 6]))["warnings"]
    assert warning == "user.history_0: events are not in the order of time, the newest last"


def test_warnings_are_counted(client: TestClient) -> None:
    body = requests()[0] | {"time": None, "user": with_history([5, 2**62])}
    answer = client.post("/rank", json=body)
    assert len(answer.json()["warnings"]) == 1
    assert 'corank_warnings_total{kind="future"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("times", [[NOW // 1000], [NOW - 5, NOW // 1000 - 3600]])
def test_events_in_seconds_are_refused(times: list[int]) -> None:
    with pytest.raises(RequestError, match=rf"^history.{len(times) - 1}.time: .* is in seconds, it seems"):
        check_event_times("history", np.array(times), NOW)


def test_an_event_beyond_64_bits_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^user\.history_0: a time is beyond 64 bits"):
        rank(user=with_history([2**70]))


def test_what_the_log_could_not_write_is_in_the_metrics(client: TestClient) -> None:
    assert "corank_log_dropped_total 0.0" in client.get("/metrics").text
