"""The client of a service: what it sends, what it makes of answers, and when it asks again."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from corank.core.errors import RequestError, ServiceError
from corank.funnel.request import Request
from corank_serve.client import AsyncServiceClient, RankAnswer, RetryPolicy, ServiceClient
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.service import access
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

IDS = list(range(16))
Handler = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def handler(case: Case) -> Iterator[Handler]:
    """The real service, in this process."""
    service = RankingService(Follower(BundleSource(case.base / "bundle")), Limits(), access())
    with TestClient(service.app()) as served:

        def handle(request: httpx2.Request) -> httpx2.Response:
            content = b"".join(request.stream)  # type: ignore[arg-type]
            answer = served.post(request.url.path, content=content, headers=dict(request.headers))
            return httpx2.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)

        yield handle


def client_of(handle: Handler, packed: bool = False, **policy: Any) -> ServiceClient:
    patient = RetryPolicy(**{"deadline": PATIENCE} | policy)
    transport = httpx2.MockTransport(handle)
    return ServiceClient("http://testserver/", "secret", packed, patient, transport=transport)


@pytest.mark.parametrize("packed", [False, True])
def test_a_request_is_ranked_as_in_process(handler: Handler, case: Case, packed: bool) -> None:
    asked = case.request("test", 0) | {"trace": True}
    ours = case.funnel.rank(asked)
    with client_of(handler, packed) as client:
        for request in (asked, Request.parse(asked)):
            answer = client.rank(request)
            assert msgspec.to_builtins(answer.items) == [item | {"scores": {}} for item in ours["items"]]
            assert (answer.trace, answer.stage, answer.user) == (ours["trace"], ours["stage"], "given")
            assert answer.model_version == case.funnel.manifest.model_version


def test_a_batch_has_errors_in_their_places(handler: Handler) -> None:
    with client_of(handler, packed=True) as client:
        one, wrong, two = client.rank_batch(
            [
                {"user": {}, "candidates": IDS},
                {"user": {}, "candidates": [1, 1]},
                {"user": {}, "candidates": IDS},
            ]
        )
        assert isinstance(one, RankAnswer) and one == two
        assert isinstance(wrong, RequestError) and "1 is there twice" in str(wrong)
        with pytest.raises(RequestError, match="unknown field"):
            client.rank({"user": {}, "candidate": IDS})
        with pytest.raises(RequestError, match="request: "):
            client.rank({"user": {"id": object()}, "candidates": IDS})


def test_it_works_in_asyncio(case: Case) -> None:
    service = RankingService(Follower(BundleSource(case.base / "bundle")), Limits(), access())
    transport = httpx2.ASGITransport(service.app())

    async def ask() -> None:
        async with AsyncServiceClient("http://testserver", packed=True, transport=transport) as client:
            answers = await asyncio.gather(*(client.rank({"user": {}, "candidates": IDS}) for _ in range(3)))
            assert answers[0] == answers[1] == answers[2]
            assert await client.rank_batch([{"user": {}, "candidates": IDS}]) == answers[:1]
            with pytest.raises(RequestError, match="twice"):
                await client.rank({"user": {}, "candidates": [1, 1]})

    asyncio.run(ask())


class Flaky:
    """Returns the given responses in turn, one per call, then repeats the last one."""

    def __init__(self, *given: httpx2.Response | Exception) -> None:
        self.given, self.calls = list(given), 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        one = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        if isinstance(one, Exception):
            raise one
        return httpx2.Response(one.status_code, headers=one.headers, content=one.content)


def refused(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, content=b'{"error": "no"}')


GOOD = httpx2.Response(200, content=b'{"stage": "rank"}')


@pytest.mark.parametrize("status", [429, 503])
def test_it_asks_again_where_that_may_help(status: int) -> None:
    flaky = Flaky(refused(status), httpx2.ConnectError("down"), GOOD)
    with client_of(flaky, pause=0.001) as client:
        assert client.rank({"user": {}}).stage == "rank"
    assert flaky.calls == 3


@pytest.mark.parametrize(("status", "kind"), [(400, RequestError), (401, ServiceError), (500, ServiceError)])
def test_it_does_not_ask_again_where_it_would_not(status: int, kind: type[Exception]) -> None:
    flaky = Flaky(refused(status))
    with client_of(flaky) as client, pytest.raises(kind, match="no"):
        client.rank({"user": {}})
    assert flaky.calls == 1


def test_it_waits_as_long_as_it_is_told_within_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    with client_of(Flaky(refused(503, **{"Retry-After": "1"}), GOOD)) as client:
        assert client.rank({"user": {}}).stage == "rank"
    assert slept == [1.0]
    for flaky in (Flaky(refused(503, **{"Retry-After": "3600"})), Flaky(refused(503))):
        with client_of(flaky, attempts=3) as client, pytest.raises(ServiceError, match="503: no") as failed:
            client.rank({"user": {}})
        assert failed.value.status == 503
    assert len(slept) == 3 and 0.025 <= slept[1] <= 0.05 <= slept[2] <= 0.1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx2.Response(200, content=b"<html>"), "http://testserver: the answer cannot be read"),
        (httpx2.ReadTimeout("late"), "no answer after 2 tries: ReadTimeout"),
    ],
)
def test_what_is_no_answer_is_an_error_that_names_the_service(answer: Any, message: str) -> None:
    client = client_of(Flaky(answer), attempts=2, pause=0.001)
    with client, pytest.raises(ServiceError, match=message) as failed:
        client.rank({"user": {}})
    assert failed.value.status == getattr(answer, "status_code", None)
