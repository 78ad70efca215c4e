"""Who may call a real service: pages of other sites, names, tokens, TLS; and what its audit says."""

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import corank
from tests.support.command_line import run_corank
from tests.support.random_worlds import RICH
from tests.support.service import JSON, TOKEN, running_service
from tests.support.shared import shared_case
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

RANK = {"user": {}, "candidates": [1, 2]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def store(folder: Path) -> str:
    address = f"lmdb:{folder / 'store'}"
    corank.publish(shared_case(RICH).base / "bundle", address)
    return address


@pytest.fixture(scope="module")
def url(store: str, folder: Path) -> Iterator[str]:
    """A service with tokens in a file, which all may read from at first."""
    (folder / "tokens").touch(0o600)
    options = ["--tokens", str(folder / "tokens"), "--audit", str(folder / "audit")]
    options += ["--allow-host", "rank.example"]
    with running_service(store, folder / "cache", *options) as (url, _):
        yield url


def audit(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit").read_text().splitlines()]


def test_pages_of_other_sites_and_other_names_are_refused(url: str) -> None:
    """By what a page may read, too: under DNS rebinding its origin is the service's, as its name says."""
    allowed = [{}, {"Host": "rank.example", "Origin": "https://rank.example"}]
    names = {"Host": "evil.example", "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    for headers in [*allowed, *({name: value} for name, value in names.items())]:
        status = 200 if headers in allowed else 403
        assert httpx2.post(f"{url}/rank", json=RANK, headers=headers).status_code == status
        for path in ("/version", "/example", "/metrics", "/status", "/item?id=1"):
            assert httpx2.get(f"{url}{path}", headers=headers).status_code == status
        for path in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert httpx2.get(f"{url}{path}", headers=headers).status_code == 200


def test_a_page_of_another_site_can_send_neither_a_form_nor_json(url: str) -> None:
    for kind in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = httpx2.post(f"{url}/rank", content=json.dumps(RANK).encode(), headers=kind)
        assert answer.status_code == 415 and "Content-Type: application/json" in answer.json()["error"]
        assert "access-control-allow-origin" not in answer.headers
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = httpx2.options(f"{url}/rank", headers=headers)
    assert answer.status_code >= 400
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_tokens_are_added_while_it_runs_and_the_audit_names_them(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = {}
    for name, scope in (("feed", "write"), ("web", "read")):
        code, out, err = run_corank(capsys, "token", name, "--tokens", folder / "tokens", "--scope", scope)
        assert (code, len(out.split())) == (0, 1), err
        secrets[name] = {"Authorization": f"Bearer {out.strip()}"}
    items = {"items": [{"id": 900, "item_1": 7}]}
    eventually(lambda: httpx2.get(f"{url}/version").status_code != 200)
    for path in ("/version", "/item?id=1", "/example", "/status", "/metrics"):
        assert httpx2.get(f"{url}{path}").status_code == 401
        for headers in (*secrets.values(), TOKEN):
            assert httpx2.get(f"{url}{path}", headers=headers).status_code == 200
    assert httpx2.post(f"{url}/rank", json=RANK).status_code == 401
    assert httpx2.post(f"{url}/rank", json=RANK, headers=secrets["web"]).status_code == 200
    before = len(audit(folder))
    nobody: dict[str, str] = {}
    for headers, status in ((nobody, 401), (secrets["web"], 403), (secrets["feed"], 200), (TOKEN, 200)):
        assert httpx2.post(f"{url}/items", json=items, headers=headers).status_code == status
    assert httpx2.post(f"{url}/reload", headers=secrets["feed"]).status_code == 403
    assert httpx2.post(f"{url}/reload", headers=TOKEN).status_code == 200
    lines = audit(folder)[before:]
    assert [(line["action"], line["by"], line["status"]) for line in lines] == [
        ("upsert", "nobody", 401), ("upsert", "web", 403), ("upsert", "feed", 200), ("upsert", "token", 200),
        ("reload", "feed", 403), ("reload", "token", 200),
    ]  # fmt: skip
    assert all(line["client"].startswith("127.0.0.1:") for line in lines)
    first, second = lines[2], lines[3]
    assert first["items"] == 1 and first["to"]["items_seq"] == first["from"]["items_seq"] + 1
    assert second["from"]["items_seq"] == first["to"]["items_seq"]
    assert lines[-1]["to"] == second["to"] and len(second["to"]["items_id"]) > 8
    for secret in secrets.values():
        assert secret["Authorization"].split()[1] not in (folder / "audit").read_text()


MISFITS = {
    "none: cannot be read: No such file": ["--tokens", "none"],
    "TLS needs both --tls-cert and --tls-key": ["--tls-cert", "c.pem"],
    "c.pem: cannot be read": ["--tls-cert", "c.pem", "--tls-key", "k.pem"],
    "a body of --body-mib must fit in --bodies-mib": ["--bodies-mib", "1"],
    "--connections 100000000: needs": ["--connections", "100000000"],
}


def test_a_setting_that_does_not_fit_is_refused_at_the_start(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for message, options in MISFITS.items():
        code, out, err = run_corank(capsys, "serve", store, "--port", 0, "--cache", tmp_path, *options)
        assert (code, out) == (1, "") and message in err and "Traceback" not in err


# TLS


def write_certificate(folder: Path, *encryption: str) -> tuple[Path, Path]:
    """A certificate that signs itself, for 127.0.0.1, and its key."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 1 -subj /CN=localhost"
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    words = [*command.split(), *(encryption or ["-nodes"])]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_it_speaks_tls_from_1_2_on(store: str, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    options = ["--tls-cert", str(certificate), "--tls-key", str(key), "--receive-seconds", "3"]
    with running_service(store, tmp_path / "cache", *options, trust=certificate) as (url, _):
        assert url.startswith("https:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx2.Client(verify=trusted) as client:
            assert client.post(f"{url}/rank", json=RANK).status_code == 200
            own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
            assert client.post(f"{url}/rank", json=RANK, headers=own).status_code == 200
            large = json.dumps(RANK).encode().ljust(2_000_000)
            assert client.post(f"{url}/rank", content=large, headers=JSON).status_code == 200
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as plain, contextlib.suppress(ConnectionError):
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not plain.recv(1000).startswith(b"HTTP")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b"", "who says nothing is not waited for as long as a minute"
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", port)) as one, pytest.raises(OSError):
            old.wrap_socket(one)


@pytest.mark.parametrize("fault", ["swapped", "encrypted", "another's"])
def test_a_certificate_that_does_not_fit_is_named(
    fault: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = write_certificate(
        tmp_path, *(["-passout", "pass:secret"] if fault == "encrypted" else [])
    )
    if fault == "swapped":
        certificate, key = key, certificate
    if fault == "another's":
        key = write_certificate(tmp_path / "other")[1]
    options = ["--tls-cert", certificate, "--tls-key", key, "--cache", tmp_path / "cache"]
    code, _, err = run_corank(capsys, "serve", store, "--port", 0, *options)
    assert code == 1 and str(key) in err and "Traceback" not in err
