"""nginx before a service, as examples/operations/nginx.conf has it."""

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

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
EXAMPLE = Path(__file__).parents[2] / "examples" / "operations" / "nginx.conf"


def config_of(port: int, service: int, folder: Path, changes: Mapping[str, str]) -> str:
    """The example with other ports, without TLS, with temporary files in a folder, and with changes of its text."""
    text = re.sub(r"^ *ssl_.*\n", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{service};",
        "server_name rank.example;": "server_name localhost;",
        "http {": f"http {{ {paths}",
        "worker_processes auto;": "worker_processes 1;",
        **changes,
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running_nginx(url: str, folder: Path, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """nginx on a free port before the service at a URL; yields its own URL.

    Args:
        url: of the service.
        folder: for its files.
        changes: texts of the example, and what stands in their places.
    """
    assert NGINX is not None, "nginx is not installed; Debian: apt-get install nginx-light"
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(config_of(port, int(url.rpartition(":")[2]), folder, changes or {}), encoding="utf-8")
    user = "user root root; " if os.getuid() == 0 else ""
    ours = f"{user}daemon off; pid {folder / 'pid'}; error_log {folder / 'error'} crit;"
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error"), "-g", ours]
    )
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
