"""Dependencies send nothing to their makers unless the user asks for it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.outbound import Outbox, WatchedProgram, compile_recorder
from tests.support.service import running_service
from tests.support.shared import derived, shared

pytestmark = pytest.mark.slow

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SESSION = """
import json, sys, corank
corank.Funnel.open({bundle!r}).rank(corank.Request.parse(json.loads({request!r})))
"""
TRACK = """
from corank import MlflowCallback
tracker = MlflowCallback(uri="sqlite:///mlflow.db")
tracker.open_run("run", {}, {})
tracker.write_figures({"loss": 1.0}, 1)
tracker.close_run("finished")
"""
ELSEWHERE = """
import socket
for act in (lambda: socket.getaddrinfo("a.name.invalid", 80), lambda: socket.create_connection(("192.0.2.1", 80))):
    try:
        act()
    except OSError:
        pass
"""
Watch = Callable[..., WatchedProgram]


@pytest.fixture(scope="module")
def recorder() -> Path:
    return shared("outbound", compile_recorder) / "outbound.so"


@pytest.fixture
def watch(recorder: Path, tmp_path: Path) -> Iterator[Watch]:
    """Starts a program of some code, with variables of the environment as keywords."""
    started: list[WatchedProgram] = []

    def start(code: str, **settings: str) -> WatchedProgram:
        started.append(WatchedProgram(recorder, tmp_path / f"program{len(started)}", code, settings))
        return started[-1]

    yield start
    for program in started:
        program.close()


def session() -> str:
    """Code that opens a bundle and ranks a request."""
    case = derived()
    assert case.funnel  # exports the bundle
    return SESSION.format(bundle=str(case.base / "bundle"), request=json.dumps(case.request("test", 0)))


def test_reports_are_off_after_the_import_and_what_the_user_has_set_stays() -> None:
    command = [sys.executable, "-c", "import json, os, corank; print(json.dumps(dict(os.environ)))"]
    for given, expected in (({}, OFF), (dict.fromkeys(OFF, "mine"),) * 2):
        environment = {"PATH": "/usr/bin"} | given
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        variables = json.loads(done.stdout)
        assert {name: variables[name] for name in OFF} == expected


def test_the_recorder_sees_look_ups_and_connections(watch: Watch) -> None:
    program = watch(ELSEWHERE)
    program.await_ready()
    assert program.contacted == {"a.name.invalid", "192.0.2.1"}


@pytest.mark.parametrize(
    ("code", "reports"),
    [
        (session, {"ORT_DISABLE_TELEMETRY": "0"}),
        (TRACK, {"MLFLOW_DISABLE_TELEMETRY": "false"}),
    ],
    ids=["session", "mlflow"],
)
def test_nothing_is_contacted(watch: Watch, code: str | Callable[[], str], reports: dict[str, str]) -> None:
    """As long as the same code takes to contact its maker if the user lets it."""
    text = code if isinstance(code, str) else code()
    quiet, loud = watch(text), watch(text, **reports)
    for program in (quiet, loud):
        program.await_ready()
    loud.await_contact()
    assert quiet.contacted == set() and quiet.written == []


def test_a_service_contacts_nothing(
    watch: Watch, recorder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, quiet, code = derived(), Outbox(recorder, tmp_path / "service"), session()
    for name, value in quiet.environment.items():
        monkeypatch.setenv(name, value)
    for name in OFF:
        monkeypatch.delenv(name, raising=False)
    with running_service(str(case.base / "bundle"), tmp_path / "cache") as (url, _):
        watch(code, ORT_DISABLE_TELEMETRY="0").await_contact()
        assert httpx2.post(f"{url}/rank", json=case.request("test", 0)).status_code == 200
    assert quiet.contacted == set() and quiet.written == []
