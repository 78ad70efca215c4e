"""A request whose query comes before its candidates: it is answered as if it had come whole."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.testclient import TestClient

from corank.serving.client import AsyncServiceClient
from corank.serving.funnel.query_encoder import QueryAhead
from corank.serving.funnel.request import Request
from corank.serving.http.follower import Follower
from corank.serving.http.serve_settings import Limits
from corank.serving.http.worker import RankingService
from corank.serving.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.service import access
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

LINES = {"Content-Type": "application/x-ndjson"}
encode = msgspec.json.encode


@pytest.fixture(scope="module")
def case() -> Case:
    return shared_case(RICH)


@pytest.fixture(scope="module")
def service(case: Case) -> RankingService:
    return RankingService(Follower(BundleSource(case.base / "bundle")), Limits(seconds=PATIENCE), access())


@pytest.fixture(scope="module")
def client(service: RankingService) -> Iterator[TestClient]:
    with TestClient(service.app()) as client:
        yield client


def split(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The two lines of a request."""
    return {name: value for name, value in request.items() if name != "candidates"}, request["candidates"]


def test_the_answer_is_that_of_the_whole_request(client: TestClient, case: Case) -> None:
    for number in range(4):
        request = case.request("test", number)
        query, candidates = split(request)
        answer = client.post(
            "/rank/ahead", content=encode(query) + b"\n" + encode(candidates), headers=LINES
        ).json()
        whole = client.post("/rank", json=request).json()
        assert answer.pop("microseconds").keys() == whole.pop("microseconds").keys()
        assert answer == whole


def test_a_query_that_another_state_encoded_is_encoded_anew(case: Case) -> None:
    funnel = case.funnel
    request = Request.parse(case.request("test", 1))
    query = msgspec.structs.replace(request, candidates=None)
    layer = funnel.request_encoder.encode_items([900], [{"item_1": 3}])
    for live in (funnel, funnel.with_changes(2, "x", layer)):
        assert live.run(request, ahead=funnel.prepare(query)).to_answer() == live.run(request).to_answer()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n[1]", "body: Input data was truncated"),
        (b'{"user": {}, "candidates": [1]}\n[1]', "body: the first line has neither candidates"),
        (b'{"user": {"nme": 1}}\n[1]', "user: the bundle knows no 'nme'"),
        (b'{"user": {}}\n', "body: Input data was truncated"),
        (b'{"user": {}}\nnull', "body: expected a list of candidates in the second line"),
        (b'{"user": {}}\n{"candidates": [1]}', "body: Expected `array | null`, got `object`"),
        (b'{"user": {}}\n[1]\n[2]', "body: JSON is malformed: trailing characters"),
        (b'{"user": {}}\n[' + b"1," * 300_000 + b"1]", "body: expected 250,000 values or fewer"),
    ],
)
def test_unsound_lines_are_refused(client: TestClient, content: bytes, message: str) -> None:
    refused = client.post("/rank/ahead", content=content, headers=LINES)
    assert (refused.status_code, refused.json()["error"][: len(message)]) == (400, message)
    assert client.post("/rank/ahead", json={"user": {}}).status_code == 415


def test_candidates_are_found_while_the_query_is_encoded(
    service: RankingService, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, encoded = list[str](), asyncio.Event()
    funnel, prepare = service.follower.funnel, service.follower.funnel.prepare
    request = case.request("test", 0) | {"trace": False}
    query, candidates = split(request)

    def note(request: Request) -> QueryAhead:
        order.append("encoded")
        encoded.set()
        return prepare(request)

    monkeypatch.setattr(funnel, "prepare", note)

    class Served(httpx2.AsyncBaseTransport):
        """Hands a body over part by part, which `httpx2.ASGITransport` does not."""

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            assert isinstance(request.stream, httpx2.AsyncByteStream)
            parts, sent = request.stream.__aiter__(), list[dict[str, Any]]()

            async def receive() -> dict[str, Any]:
                part = await anext(parts, None)
                return {"type": "http.request", "body": part or b"", "more_body": part is not None}

            async def send(message: Any) -> None:
                sent.append(message)

            headers = [(name.lower(), value) for name, value in request.headers.raw]
            scope = {"type": "http", "method": "POST", "path": request.url.path, "headers": headers}
            await service.app()(scope | {"http_version": "1.1", "query_string": b""}, receive, send)
            return httpx2.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])

    async def retrieve() -> list[Any]:
        await asyncio.wait_for(encoded.wait(), PATIENCE)
        order.append("found")
        return list(candidates)

    async def ask() -> None:
        async with AsyncServiceClient("http://here", transport=Served()) as ranks:
            answer = await ranks.rank_ahead(query, retrieve)
            assert answer == await ranks.rank(request)

    asyncio.run(ask())
    assert order == ["encoded", "found"]
    assert service.ranking.waiting == 0 and service.ranking._bodies.is_idle


def test_candidates_that_never_come_are_waited_for_as_long_as_a_body(case: Case) -> None:
    service = RankingService(Follower(BundleSource(case.base / "bundle")), Limits(seconds=0.05), access())

    async def never() -> AsyncIterator[bytes]:
        yield b'{"user": {}}\n'
        await asyncio.Event().wait()

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(service.app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/rank/ahead", content=never(), headers=LINES)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["error"]) == (408, "the body did not come within 0.05 s")
    assert service.ranking._bodies.is_idle
