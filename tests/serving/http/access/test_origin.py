"""Names by which a service may be called, and pages that may call it."""

import pytest

from corank.serving.http.access_control import OriginPolicy, split_port
from corank.serving.http.asgi import HttpCall, RefusedError
from tests.support.service import call_of

POLICY = OriginPolicy(["rank.example"], ["https://console.example"])


def request(*headers: tuple[str, str], version: str = "1.1") -> HttpCall:
    return call_of([(name.encode(), value.encode()) for name, value in headers], version)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "10.2.3.4", "[::1]:8000", "rank.example.:443"]
)
def test_its_names_and_addresses_are_accepted(host: str) -> None:
    POLICY.check(request(("host", host)))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1", "1"]
)
def test_another_name_is_refused(host: str) -> None:
    with pytest.raises(RefusedError) as refused:
        POLICY.check(request(("host", host)))
    assert refused.value.status == 403


def test_two_names_or_none_are_refused_but_for_http_1_0() -> None:
    for headers in ([], [("host", "localhost"), ("host", "localhost")]):
        with pytest.raises(RefusedError) as refused:
            POLICY.check(request(*headers))
        assert refused.value.status == 400
    POLICY.check(request(version="1.0"))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("sec-fetch-site", "none")],
        [("sec-fetch-site", "same-origin")],
        [("origin", "http://rank.example:8000"), ("sec-fetch-site", "same-origin")],
        [("origin", "https://rank.example:8000")],  # TLS ends at a proxy
        [("origin", "https://console.example"), ("sec-fetch-site", "cross-site")],
    ],
)
def test_its_own_page_and_allowed_ones_may_call(headers: list[tuple[str, str]]) -> None:
    POLICY.check(request(("host", "rank.example:8000"), *headers))


@pytest.mark.parametrize(
    "headers",
    [
        [("origin", "https://evil.example")],
        [("origin", "null")],
        [("origin", "http://rank.example:3000")],
        [("origin", "http://console.example")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
    ],
)
def test_pages_of_other_sites_may_not(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(RefusedError) as refused:
        POLICY.check(request(("host", "rank.example:8000"), *headers))
    assert refused.value.status == 403


def test_a_port_is_no_part_of_a_name() -> None:
    assert [split_port(host) for host in ("a:1", "a", "a.:1", "[::1]:8000", "[::1]")] == [
        "a", "a", "a", "[::1]", "[::1]",
    ]  # fmt: skip
