"""MessagePack and JSON, batches, fields of answers, queries ahead of candidates: one meaning whatever the way."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

from corank.core.errors import RequestError
from corank.funnel.ranking import Ranking
from corank.funnel.request import ANSWER_FIELDS, MAX_CANDIDATES, RankAnswer, Request
from corank_serve.http.body import JSON_CODEC, MAX_BATCH, MAX_MSGPACK, MSGPACK, MSGPACK_CODEC
from corank_serve.http.follower import Follower
from corank_serve.http.serve_settings import Limits
from corank_serve.http.worker import RankingService
from corank_serve.log.log_format import ANSWERED, X_REQUEST_ID
from corank_serve.store.source import BundleSource
from tests.support.cases import Case
from tests.support.random_worlds import RICH
from tests.support.service import JSON, access
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

PACKED = {"Content-Type": MSGPACK}
LINES = {"Content-Type": "application/x-ndjson"}
encode = msgspec.msgpack.encode


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


def unpacked(response: httpx2.Response) -> Any:
    assert response.headers["Content-Type"] == MSGPACK
    return msgspec.msgpack.decode(response.content)


def test_messagepack_json_and_the_process_give_the_same_bits(client: TestClient, case: Case) -> None:
    for number in range(4):
        request = case.request("test", number) | {"fields": [*set(ANSWER_FIELDS) - {"microseconds"}]}
        plain = client.post("/rank", json=request).json()
        packed = unpacked(client.post("/rank", content=encode(request), headers=PACKED))
        assert plain == packed == case.funnel.rank(request) | {"user": "given"}
    ids = {"user": {}, "candidates": np.arange(16, dtype="<i8").tobytes()}
    answer = unpacked(client.post("/rank", content=encode(ids), headers=PACKED))
    assert answer == client.post("/rank", json={"user": {}, "candidates": list(range(16))}).json()


@pytest.mark.parametrize(
    ("sent", "accept", "received"),
    [
        (JSON, None, "application/json"),
        (PACKED, "*/*", MSGPACK),
        (JSON, "application/msgpack", MSGPACK),
        (PACKED, "application/json, application/msgpack;q=.5", "application/json"),
        (PACKED, "text/html", MSGPACK),
    ],
)
def test_the_answer_is_of_the_type_that_the_client_takes(
    client: TestClient, sent: dict[str, str], accept: str | None, received: str
) -> None:
    for candidates in ([1], []):  # an answer, and an error
        body = {"user": {}, "candidates": candidates}
        content = encode(body) if sent is PACKED else msgspec.json.encode(body)
        headers = sent | ({} if accept is None else {"Accept": accept})
        assert client.post("/rank", content=content, headers=headers).headers["Content-Type"] == received


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xc1", "body: MessagePack data is malformed"),
        (b"\x81\xa4user\x80\x00", "body: MessagePack data is malformed: trailing characters"),
        (b"\x81\xa4user\xdf\xff\xff\xff\xff", "body: Expected `object` of length <= 4096"),
        (b"\x82\xa4user\x80\xaacandidates\xdd\xff\xff\xff\xff", "body: Expected `array` of length <= 10000"),
        ({"user": {1: 1}}, "body: Expected `str`, got `int`"),
        ({"user": {"id": b"a"}}, "body: Expected `bool | int | float | str | array | null`, got `bytes`"),
        ({"user": {"id": msgspec.msgpack.Ext(5, b"")}}, "body: Expected `bool | int | float | str | array"),
        ({"user": {"user_0": float("nan")}}, "body: expected finite numbers; user.user_0 is none"),
        (
            {"user": {}, "candidates": [{"id": 1, "c": float("-inf")}]},
            "body: expected finite numbers; candidates.0.c",
        ),
        ({"user": {}, "candidates": b"123456789"}, "body: candidates: expected int64 of 8 bytes each"),
        ({"user": {}, "candidates": b"12345678" * 2}, "candidates: 4050765991979987505 is there twice"),
        (
            {"user": {}, "candidates": bytes(8 * MAX_CANDIDATES + 8)},
            "body: Expected `bytes` of length <= 80000",
        ),
    ],
)
def test_what_messagepack_alone_can_say_is_refused(client: TestClient, body: Any, message: str) -> None:
    content = body if isinstance(body, bytes) else encode(body)
    refused = client.post("/rank", content=content, headers=PACKED)
    assert (refused.status_code, unpacked(refused)["error"][: len(message)]) == (400, message)


def test_text_of_messagepack_that_is_not_utf8_is_refused(client: TestClient) -> None:
    refused = client.post("/rank", content=b"\x81\xa4user\x81\xa1a\xa2\xff\xff", headers=PACKED)
    # the words are msgspec's, and differ by its release
    assert refused.status_code == 400 and re.match("body: .*utf-8", unpacked(refused)["error"], re.IGNORECASE)


def test_a_number_that_is_not_finite_is_found_beside_ids_whose_bytes_look_like_one() -> None:
    numbers = {f"user_{n}": float("inf") for n in range(8)}
    # the bytes of the numbers' names and values, so that what is left out of the search could be taken for the ids
    copied = encode(numbers)[1:]
    ids, user = copied + b"0" * (-len(copied) % 8), {"candidates": "x"} | numbers
    for body in ({"user": user, "candidates": ids}, {"candidates": ids, "user": user}):
        with pytest.raises(RequestError, match="user_0 is none"):
            MSGPACK_CODEC.decode(encode(body), Request)
    decoded = MSGPACK_CODEC.decode(encode({"user": {"candidates": "x"}, "candidates": ids}), Request)
    assert decoded.candidates is not None
    assert np.array(list(decoded.candidates), dtype="<i8").tobytes() == ids


@pytest.mark.parametrize(
    "candidates",
    [[3, 1], [-(2**63), 2**63 - 1], ["a", 1], [1, "a"], [{"id": 1, "price": 2.5}], [1, {"id": 2}]],
)
def test_candidates_of_json_are_those_that_were_sent(candidates: list[Any]) -> None:
    request = JSON_CODEC.decode(msgspec.json.encode({"user": {}, "candidates": candidates}), Request)
    assert [*(request.candidates or ())] == candidates
    described = [{"id": 7}, "b", 2**62]
    assert msgspec.structs.replace(request, candidates=described).candidates == described


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([2**63], "<= 9223372036854775807"),
        ([], "length >= 1"),
        ([1, True], "got `bool`"),
        ([1, 1.5], "got `float`"),
    ],
)
def test_candidates_that_are_no_ids_are_refused(candidates: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        JSON_CODEC.decode(msgspec.json.encode({"user": {}, "candidates": candidates}), Request)


def test_a_text_may_look_like_a_number_that_is_not_finite() -> None:
    request = MSGPACK_CODEC.decode(
        encode({"user": {"id": "\x7f\u00cb"}, "time": 0x7FF0CB7FF0CB7FF0}), Request
    )
    assert request.time == 0x7FF0CB7FF0CB7FF0
    raw = b"\x82\xa4user\x80\xa4time\xcf\x00\xcb\x7f\xf0\x00\x00\x00\x00"
    assert MSGPACK_CODEC.decode(raw, Request).time_ms == 0xCB7FF000000000
    with pytest.raises(RequestError, match=r"where\.a\.1 is none"):
        MSGPACK_CODEC.decode(encode({"user": {}, "where": {"a": [1.5, float("inf")]}}), Request)


def test_a_packed_body_that_takes_long_to_decode_is_refused(client: TestClient) -> None:
    body = encode({"user": {str(n): [1] * 10_000 for n in range(MAX_MSGPACK // 10_000 + 2)}})
    refused = client.post("/rank", content=body, headers=PACKED)
    assert refused.status_code == 413 and "send JSON, or less" in unpacked(refused)["error"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_is_answered_in_order_and_names_what_is_wrong_in_its_place(
    client: TestClient, case: Case, service: RankingService, packed: bool
) -> None:
    sound = [case.request("test", number) | {"trace": False} for number in range(3)]
    requests = [*sound[:2], {"user": {}, "candidates": []}, {"user": {}, "candidates": ["x"]}, 5, sound[2]]
    if packed:
        answer = unpacked(client.post("/rank/batch", content=encode({"requests": requests}), headers=PACKED))
    else:
        answer = client.post("/rank/batch", json={"requests": requests}).json()
    manifest = case.funnel.manifest
    assert (answer["model_version"], answer["items_seq"]) == (manifest.model_version, manifest.items_seq)
    answers = answer["answers"]
    assert [answers[n] for n in (0, 1, 5)] == [client.post("/rank", json=one).json() for one in sound]
    assert [(one["status"], one["error"].partition(" ")[0]) for one in answers[2:5]] == [
        (400, "body:"),
        (400, "candidates:"),
        (400, "body:"),
    ]
    assert service.ranking.waiting == 0


def test_a_batch_is_bounded(client: TestClient) -> None:
    bodies: list[list[dict[str, Any]]] = [[], [{}] * (MAX_BATCH + 1)]
    for requests in bodies:
        refused = client.post("/rank/batch", json={"requests": requests})
        assert refused.status_code == 400 and "`array`" in refused.json()["error"]


def test_a_batch_lets_others_have_their_turn(service: RankingService) -> None:
    one = {"user": {}, "candidates": list(range(16))}

    async def at_once() -> list[str]:
        order: list[str] = []
        transport = httpx2.ASGITransport(service.app())
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:

            async def ask(path: str, body: Any) -> None:
                assert (await client.post(path, json=body)).status_code == 200
                order.append(path)

            batch = asyncio.create_task(ask("/rank/batch", {"requests": [one] * MAX_BATCH}))
            while not service.ranking.waiting:
                await asyncio.sleep(0)
            await asyncio.gather(batch, *(ask("/rank", one) for _ in range(3)))
        return order

    assert asyncio.run(at_once()) == ["/rank"] * 3 + ["/rank/batch"]


def test_an_answer_has_the_fields_that_are_asked_for(client: TestClient, case: Case) -> None:
    request = case.request("test", 0) | {"trace": False}
    plain = client.post("/rank", json=request).json()
    fields = "model_version items_seq items_id stage items unknown missing user"
    assert plain.keys() == {*fields.split()}
    ids = [item["id"] for item in plain["items"]]
    assert client.post("/rank", json=request | {"fields": ["ids"]}).json() == {"ids": ids}
    assert client.post("/rank", json=request | {"fields": []}).json() == {}
    traced = client.post("/rank", json=request | {"fields": ["scores", "trace"]}).json()
    assert traced.keys() == {"items", "trace"}
    reached = {
        one["id"]: {name: at["score"] for name, at in one["stages"].items()} for one in traced["trace"]
    }
    assert traced["items"] == [item | {"scores": reached[item["id"]]} for item in plain["items"]]
    refused = client.post("/rank", json=request | {"fields": ["score"]})
    assert refused.status_code == 400 and "'score' - at `$.fields[0]`" in refused.json()["error"]
    with pytest.raises(RequestError, match="unknown field 'score'; did you mean 'scores'"):
        Request(user={}, fields=["score"])
    with pytest.raises(RequestError, match="fields: expected a list"):
        Request.parse({"user": {}, "fields": "ids"})


def test_one_list_has_the_fields_that_are_chosen_answered_described_and_logged(
    client: TestClient, case: Case
) -> None:
    fields = {*RankAnswer.__struct_fields__}
    answer = client.post("/rank", json=case.request("test", 0) | {"fields": [*ANSWER_FIELDS]}).json()
    nothing_to_say = {"warnings", "fallback", "served_id", "explored", "propensity"}
    assert fields - answer.keys() == nothing_to_say
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["RankAnswer"]["properties"].keys() == fields
    described = document["paths"]["/rank"]["post"]["responses"]["200"]["content"]["application/json"]
    assert described == {"schema": {"$ref": "#/components/schemas/RankAnswer"}}
    read = msgspec.convert(answer, RankAnswer)
    assert (read.served_id, [item.id for item in read.items]) == (None, read.ids)
    assert {*ANSWERED} - {X_REQUEST_ID} <= fields


# A query whose candidates follow


def split(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The two lines of a request."""
    return {name: value for name, value in request.items() if name != "candidates"}, request["candidates"]


def test_the_answer_is_that_of_the_whole_request(client: TestClient, case: Case) -> None:
    for number in range(4):
        request = case.request("test", number)
        query, candidates = split(request)
        answer = client.post(
            "/rank/ahead",
            content=msgspec.json.encode(query) + b"\n" + msgspec.json.encode(candidates),
            headers=LINES,
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
        ahead = funnel.prepare(query)
        ahead.request = request
        assert live.run_many([ahead]) == [None] and ahead.to_answer() == live.run(request).to_answer()


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

    def note(request: Request) -> Ranking:
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

    async def ahead() -> AsyncIterator[bytes]:
        yield json.dumps(query).encode() + b"\n"
        await asyncio.wait_for(encoded.wait(), PATIENCE)
        order.append("found")
        yield json.dumps(list(candidates)).encode()

    async def ask() -> None:
        async with httpx2.AsyncClient(base_url="http://here", transport=Served()) as client:
            headers = {"Content-Type": "application/x-ndjson"}
            answer = await client.post("/rank/ahead", content=ahead(), headers=headers)
            assert answer.status_code == 200
            assert answer.json()["items"] == (await client.post("/rank", json=request)).json()["items"]

    asyncio.run(ask())
    assert order == ["encoded", "found"]
    assert service.ranking.waiting == 0 and not service.ranking._bodies._open


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
    assert not service.ranking._bodies._open
