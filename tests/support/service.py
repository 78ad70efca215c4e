"""`corank serve` as a process on a free port."""

import contextlib
import inspect
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpcore2
import httpx2
import psutil

from corank_serve.http.access_control import AccessControl, OriginPolicy
from corank_serve.http.asgi import AsgiMessage, HttpCall
from corank_serve.http.tokens import Token, Tokens
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, eventually

# of each request without a client it would read the certificates of all authorities anew, which takes 20 ms
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)
# of calls and clients that name no other; it is one object, which all of them read
vars(inspect.signature(httpx2.get).parameters["timeout"].default).update(httpx2.Timeout(PATIENCE).as_dict())

ANY_TIME = ("--max-clock-skew", "36500d")
"""For logged requests, whose times are long ago."""
JSON = {"Content-Type": "application/json"}
TOKEN = {"Authorization": "Bearer secret"}
"""The header that a client of `running_service` may send items with."""

PROGRAM = Path(sys.executable).with_name("corank")
"""The command of this environment."""


def access(secret: str | None = "secret") -> AccessControl:
    """Who may call a service in process: the names that test clients use, and the token of TOKEN."""
    tokens = [Token.of(secret, "token", "admin")] if secret else []
    return AccessControl(OriginPolicy(["testserver", "here"]), Tokens(tokens))


def call_of(headers: list[tuple[bytes, bytes]], version: str = "1.1") -> HttpCall:
    """A request of such a head, whose body never comes."""

    async def receive() -> AsgiMessage:
        return {"type": "http.disconnect"}

    return HttpCall({"type": "http", "headers": headers, "http_version": version}, receive)


def workers_of(service: psutil.Process) -> list[psutil.Process]:
    """The worker processes of a service that runs."""
    return [child for child in service.children() if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    """Whether a process is a worker that has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it ended since it was listed
        return False


def metrics_of(process: subprocess.Popen[bytes], port: int) -> str:
    """What a process that runs exposes to Prometheus; nothing yet, if it does not listen."""
    assert process.poll() is None
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    return ""


@contextlib.contextmanager
def running_service(
    source: str,
    cache: Path,
    *options: str,
    workers: int | None = 1,
    trust: Path | None = None,
    program: Path = PROGRAM,
) -> Iterator[tuple[str, psutil.Process]]:
    """A service on a free port, and the process that supervises its workers.

    Args:
        source: a bundle's folder or a store's address.
        workers: number of worker processes; None leaves the choice to the service.
        trust: certificate of a service that speaks TLS.
        program: the command `corank`.
    """
    port = free_port()
    command = [
        str(program),
        "serve",
        source,
        "--port",
        str(port),
        "--cache",
        str(cache),
        "--drain-seconds",
        "0",
    ]
    command += [*ANY_TIME, *([] if workers is None else ["--workers", str(workers)])]
    environment = os.environ | {"CORANK_TOKEN": "secret"}
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
    url = f"{'http' if trust is None else 'https'}://127.0.0.1:{port}"
    verify = trust is None or ssl.create_default_context(cafile=str(trust))
    try:

        def answers() -> bool:
            assert process.poll() is None, f"the service ended with {process.returncode} before it answered"
            with contextlib.suppress(httpx2.HTTPError):
                return httpx2.get(f"{url}/healthz", verify=verify).status_code == 200
            return False

        eventually(answers)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(PATIENCE)
