"""Hostile requests against a running service, and whether its responses are what the API allows."""

import contextlib
import json
import random
import time
from typing import Any

import httpx2
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corank_serve.http.body import MSGPACK
from tests.support.hostile_cases import Outcome
from tests.support.service import JSON, TOKEN
from tests.support.waiting import PATIENCE

PACKED = {"Content-Type": MSGPACK}
HOSTILE_VALUES = (
    float("nan"),
    float("inf"),
    b"",
    b"\xff" * 8,
    {1: 2},
    msgspec.msgpack.Ext(5, b"x"),
    2**64 - 1,
)
"""What MessagePack can hold and JSON cannot."""

ALLOWED = {200, 400, 401, 403, 404, 405, 409, 413, 415, 503}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "\x00", "9" * 400, 2**63, -(2**63), 1e308, -0.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def mutate(random_: random.Random, value: Any, new: Any) -> Any:
    """Return a copy of a JSON value in which one random part is replaced by `new`, removed or doubled."""
    if isinstance(value, dict) and value and random_.random() < 0.8:
        key = random_.choice(list(value))
        act = random_.random()
        if act < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if act < 0.2:
            return value | {f"{key}x": new}
        return value | {key: mutate(random_, value[key], new)}
    if isinstance(value, list) and value and random_.random() < 0.8:
        n = random_.randrange(len(value))
        if random_.random() < 0.2:
            return [*value, value[n]]
        return [*value[:n], mutate(random_, value[n], new), *value[n + 1 :]]
    return new


def record(result: Outcome, response: httpx2.Response, began: float, what: str) -> None:
    """Count a response to the request `what`, which was sent at `began`.

    It failed if it is a 5xx other than 503 with Retry-After, has an undeclared status, or is not JSON.
    """
    took = time.perf_counter() - began
    result.cases += 1
    result.slowest = max(result.slowest, took)
    allowed = response.status_code in ALLOWED
    if response.status_code == 503:
        allowed = "Retry-After" in response.headers
    with contextlib.suppress(ValueError, msgspec.DecodeError):
        packed = response.headers.get("Content-Type") == MSGPACK
        document = msgspec.msgpack.decode(response.content) if packed else response.json()
        allowed = allowed and isinstance(document, dict)
    if not allowed:
        result.failed += 1
        result.note(f"{response.status_code} for {what[:500]}: {response.text[:500]}")


def write(random_: random.Random, value: Any, packed: bool) -> bytes:
    """Write a body, of MessagePack with what it alone can hold."""
    if not packed:
        return json.dumps(value).encode()
    if random_.random() < 0.2:
        value = mutate(random_, value, random_.choice(HOSTILE_VALUES))
    with contextlib.suppress(OverflowError):
        return msgspec.msgpack.encode(value)
    return msgspec.msgpack.encode(random_.choice(HOSTILE_VALUES))


def post_mutations(
    url: str, path: str, valid: dict[str, Any], cases: int, seed: int, packed: bool = False
) -> Outcome:
    """Post mutations of a valid body, JSON or MessagePack: its values, its fields and its bytes."""
    result = Outcome()
    with httpx2.Client(
        base_url=url, timeout=PATIENCE, headers=TOKEN | (PACKED if packed else JSON)
    ) as client:

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.randoms(use_true_random=False), json_values, st.integers(0, 9), st.binary(max_size=8))
        def attack(random_: random.Random, new: Any, how: int, raw: bytes) -> None:
            body = write(random_, mutate(random_, valid, new), packed)
            if how == 0:  # bytes that are no JSON, or no MessagePack
                at = random_.randrange(len(body))
                body = body[:at] + raw + body[at + len(raw) :]
            began = time.perf_counter()
            try:
                record(result, client.post(path, content=body), began, body.decode(errors="replace"))
            except httpx2.TimeoutException:
                result.cases += 1
                result.hung += 1

        attack()
    return result


def call_operations(url: str, cases: int) -> Outcome:
    """Call every operation of the OpenAPI document with at most `cases` requests made by schemathesis."""
    import schemathesis

    def to_bytes(context: Any, value: Any) -> bytes:
        return value.encode() if isinstance(value, str) else json.dumps(value).encode()

    schemathesis.serializer("application/x-ndjson")(to_bytes)

    result = Outcome()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation in schema.get_all_operations():
        made: Any = operation.ok()  # an operation that cannot be read raises

        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(made.as_strategy())
        def attack(case: Any) -> None:
            began = time.perf_counter()
            record(result, case.call(headers=TOKEN, timeout=PATIENCE), began, f"{case.method} {case.path}")

        attack()
    return result
