"""Names by which a service may be called, and pages that may call it."""

import pytest

from corank_serve.http.access_control import OriginPolicy
from corank_serve.http.asgi import RefusedError
from tests.support.service import call_of

POLICY = OriginPolicy(["rank.example"])
Headers = list[tuple[str, str]]


def status(headers: Headers, version: str = "1.1") -> int:
    """200, or the status of the refusal."""
    try:
        POLICY.check(call_of([(name.encode(), value.encode()) for name, value in headers], version))
    except RefusedError as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    ("accepted", "hosts"),
    [
        (
            200,
            ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "10.2.3.4", "[::1]:8000", "rank.example.:443"],
        ),
        (403, ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1", "1"]),
    ],
)
def test_its_names_and_addresses_alone_are_accepted(accepted: int, hosts: list[str]) -> None:
    assert {host: status([("host", host)]) for host in hosts} == dict.fromkeys(hosts, accepted)


def test_two_names_or_none_are_refused_but_for_http_1_0() -> None:
    assert status([]) == status([("host", "localhost"), ("host", "localhost")]) == 400
    assert status([], version="1.0") == 200


@pytest.mark.parametrize(
    ("accepted", "headers"),
    [
        (200, [("sec-fetch-site", "none")]),
        (200, [("sec-fetch-site", "same-origin")]),
        (200, [("origin", "http://rank.example:8000"), ("sec-fetch-site", "same-origin")]),
        (200, [("origin", "https://rank.example:8000")]),  # TLS ends at a proxy
        (403, [("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]),
        (403, [("origin", "null")]),
        (403, [("origin", "http://rank.example:3000")]),
        (403, [("sec-fetch-site", "cross-site")]),
        (403, [("sec-fetch-site", "same-site")]),
    ],
)
def test_its_own_page_alone_may_call(accepted: int, headers: Headers) -> None:
    assert status([("host", "rank.example:8000"), *headers]) == accepted
