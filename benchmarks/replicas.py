"""Replicas of `corank serve` that a benchmark starts, stops and asks."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import free_port, on_core
from tests.support.service import ANY_TIME, workers_of

CORANK = [sys.executable, "-c", "from corank.cli.main import main; main()"]
STARTED = 120.0
"""Seconds in which a replica must be ready."""


INHERITING = ["sh", "-c", 'exec 3<&"$0"; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"']
"""Starts a command with a socket as systemd does; the socket's descriptor is the first argument."""


class Replica:
    """A service on a port of its own, which stays the same over restarts."""

    def __init__(
        self, source: str, folder: Path, *options: object, listener: socket.socket | None = None
    ) -> None:
        """
        Args:
            source: what it serves.
            folder: of its cache, its log and what it says.
            options: of `corank serve`.
            listener: a socket that it inherits, as from systemd, which stays open while it is away.
        """
        folder.mkdir(parents=True)
        self.folder, self._listener = folder, listener
        self.port = free_port() if listener is None else int(listener.getsockname()[1])
        command = [
            *CORANK,
            "serve",
            source,
            "--cache",
            folder / "cache",
            "--port",
            self.port,
            *ANY_TIME,
            *options,
        ]
        self._command = [*map(str, command)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on the first core; return once it is ready. Raises RuntimeError if it is not in time."""
        number = [] if self._listener is None else [self._listener.fileno()]
        command = [*INHERITING, str(number[0]), *self._command] if number else self._command
        with (self.folder / "stderr").open("ab") as said, on_core(0):
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=said, pass_fds=number)
        if not wait_until(self.is_ready, STARTED):
            raise RuntimeError(f"{self._command!r}: is not ready: {(self.folder / 'stderr').read_text()}")

    def stop(self) -> float:
        """End it as an operator does; return the seconds that it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(STARTED) != 0:
            raise RuntimeError(f"exit code {self.process.returncode}: {(self.folder / 'stderr').read_text()}")
        return time.monotonic() - began

    def kill(self) -> None:
        """End it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def workers(self) -> set[int]:
        """The ids of its worker processes."""
        assert self.process is not None
        return {worker.pid for worker in workers_of(psutil.Process(self.process.pid))}

    def is_ready(self) -> bool:
        """Whether a load balancer would send requests to it."""
        return self.get("/readyz")[0] == 200

    def get(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and body of an answer; status 0 if there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None


def wait_until(holds: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Wait until something holds; False if it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def kill_all(replicas: Sequence[Replica]) -> None:
    """End all that run."""
    for replica in replicas:
        replica.kill()
