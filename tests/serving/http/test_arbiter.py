"""New workers replace old ones while the service continues, and systemd is notified."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from corank.core.errors import ConfigError, CorankError
from corank_serve.http.process.arbiter import ServiceArbiter
from corank_serve.http.process.listener import bind_listener
from corank_serve.http.process.worker_process import Drain, RestartCounts, WorkerMain
from tests.support.service import PROGRAM, running_service, workers_of
from tests.support.waiting import PATIENCE, eventually
from tests.support.worker_mains import fail_at_once, serve_until_told


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket to which a service sends its state, as systemd's."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        receiver.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        yield receiver


def next_state(told: socket.socket) -> str:
    """The next state that is no sign of life; of its lines the first."""
    while (state := told.recv(1000).decode()) == "WATCHDOG=1":
        pass
    return state.partition("\n")[0]


@pytest.mark.slow
def test_workers_make_way_for_new_ones_and_systemd_is_told(told: socket.socket) -> None:
    reports, ended, restarts = list[str](), list[int](), RestartCounts()
    states = list[str]()
    mains: list[WorkerMain | CorankError] = [
        serve_until_told,
        ConfigError("corank.yaml: port: faulty"),
        fail_at_once,
    ]

    def renew() -> WorkerMain:
        main = mains.pop(0)
        if isinstance(main, CorankError):
            raise main
        return main

    def direct() -> None:
        try:
            for _ in range(3):
                states.append(next_state(told))
                os.kill(os.getpid(), signal.SIGHUP)
                states.append(next_state(told))
            states.append(next_state(told))
            assert told.recv(1000) == b"WATCHDOG=1"
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    directing = threading.Thread(target=direct)
    with bind_listener("127.0.0.1", 0) as listener:
        directing.start()
        ServiceArbiter(2, serve_until_told, Drain(), reports.append, ended.append, renew, restarts).serve(
            listener
        )
    directing.join()
    assert states == ["READY=1", "RELOADING=1"] * 3 + ["READY=1"]
    assert next_state(told) == "STOPPING=1"
    assert restarts.read() == {"died": 0, "replaced": 2} and len(set(ended)) == 2
    assert reports == [
        "renewed: 2 workers by the settings of now",
        "the settings of before stay: corank.yaml: port: faulty",
        "a new worker ended with exit code 7 before it served; the earlier workers stay",
    ]


@pytest.mark.slow
def test_one_worker_is_renewed_by_the_settings_of_now_and_replaced_when_it_dies(
    trained_bundle: Path, tmp_path: Path
) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("body_mib: 1\n")
    body = {"user": {"id": 7}, "candidates": [3, 11, 24]}
    with (
        running_service(str(trained_bundle), tmp_path, "--config", str(config)) as (url, process),
        httpx2.Client(base_url=url) as client,
    ):

        def workers() -> list[int]:
            return [worker.pid for worker in workers_of(process)]

        def bound() -> int:
            """Of a body, as the document says."""
            return int(httpx2.get(f"{url}/openapi.json").text.count(f"{2 << 20:,}"))

        (first,) = workers()
        assert client.post("/rank", json=body).status_code == 200
        assert not bound()
        config.write_text("body_mib: 2\n")
        process.send_signal(signal.SIGHUP)
        while first in workers():
            assert client.post("/rank", json=body).status_code == 200
            assert httpx2.get(f"{url}/readyz").status_code == 200
        assert bound()
        (second,) = workers()
        os.kill(second, signal.SIGKILL)
        eventually(lambda: workers() not in ([second], []))

        def restarts() -> list[str]:
            try:
                lines = httpx2.get(f"{url}/metrics").text.splitlines()
            except httpx2.HTTPError:
                return []
            return [line for line in lines if line.startswith("corank_worker_restarts_total{")]

        expected = [f'corank_worker_restarts_total{{why="{why}"}} 1.0' for why in ("died", "replaced")]
        eventually(lambda: restarts() == expected)


INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""
INHERITING = [sys.executable, "-c", INHERIT]
"""Starts a command with a socket as systemd does; the socket's descriptor is the first argument."""


@pytest.mark.slow
def test_a_unix_socket_is_inherited_and_ctrl_c_ends_parent_and_worker_in_order(
    trained_bundle: Path, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = [
            *INHERITING,
            str(listener.fileno()),
            str(PROGRAM),
            "serve",
            str(trained_bundle),
            "--workers",
            "1",
        ]
        process = subprocess.Popen(
            [*command, "--drain-seconds", "0"],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=path), timeout=PATIENCE) as client:
            body = {"user": {"id": 7}, "candidates": [3, 11, 24]}
            assert client.post("http://localhost/rank", json=body).status_code == 200
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, rest = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said[1], rest) == (0, f"unix:{path}\n", "")


def test_what_is_inherited_and_is_no_socket_is_refused() -> None:
    with Path(os.devnull).open() as file:
        command = [*INHERITING, str(file.fileno()), str(PROGRAM), "serve", "nowhere"]
        done = subprocess.run(command, capture_output=True, text=True, pass_fds=[file.fileno()])
    assert done.returncode == 1
    assert done.stderr == "error: LISTEN_FDS: expected sockets to serve on: Socket operation on non-socket\n"
