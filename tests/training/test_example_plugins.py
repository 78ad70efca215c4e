"""The plug-ins of examples/plugins, one of each sort, through every command together, as a user runs them."""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
import torch

from corank.bundle.stage_facts import TOLERANCE
from corank.cli.main import main
from corank.datasets.feed.simulate import simulate_world
from corank.training.run import Run as CorankRun
from tests.support import kills
from tests.support.http_parity import parity
from tests.support.service import running_service

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "plugins"

pytestmark = pytest.mark.slow


class Done(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., list[Done]]


def _enter(folder: Path, environment: dict[str, str]) -> None:
    """Act as a user's process in the folder, from which plug-ins are imported."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.update({"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"} | environment)
    sys.path.insert(0, str(folder))


def _run_commands(folder: Path, environment: dict[str, str], commands: list[list[str]], output: Path) -> None:
    """Run commands in turn in this process; write their codes and outputs to a file."""
    _enter(folder, environment)
    done = []
    for words in commands:
        sys.argv, out, err, code = ["corank", *words], io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as left:
                code = int(left.code or 0)
        done.append([code, out.getvalue(), err.getvalue()])
    output.write_text(json.dumps(done), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated world with the plug-ins and their config next to its tables."""
    out = tmp_path_factory.mktemp("plugins") / "world"
    simulate_world(out, requests=400, candidates=30, users=40, items=120)
    for file in [*EXAMPLES.glob("*.py"), EXAMPLES / "plugins.yaml"]:
        shutil.copy(file, out)
    return out


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Runs commands in a process of their own, in the folder."""

    def run(*commands: list[object], **environment: str) -> list[Done]:
        words = [[str(word) for word in one] for one in commands]
        kills.run(_run_commands, folder, environment, words, folder / "done.json")
        done = [Done(*one) for one in json.loads((folder / "done.json").read_text(encoding="utf-8"))]
        assert not any("Traceback" in one.err for one in done)
        return done

    return run


def outputs(done: list[Done]) -> list[str]:
    """Outputs of commands, all of which must have succeeded."""
    for one in done:
        assert one.code == 0, one.err
    return [one.out for one in done]


NARROW: list[object] = [
    *("--set", "stages.0.keep=18", "--set", "stages.1.keep=6", "--set", "train.requests=64"),
    *("--set", "stages.0.factors=4", "--set", "stages.1.factors=4"),
]


@pytest.fixture(scope="module")
def trained(run: Run, folder: Path) -> dict[str, str]:
    """Each command's output on a run and its bundle; plug-ins come from the config alone."""
    commands: dict[str, list[object]] = {
        "check": ["check", "plugins.yaml", "--all"],
        "train": ["train", "plugins.yaml", "--run", "run", *NARROW],
        "evaluate": ["evaluate", "run", "--json"],
        "tables": ["evaluate", "run"],
        "export": ["export", "run", "bundle"],
        "request": ["request", "run"],
    }
    said = dict(zip(commands, outputs(run(*commands.values())), strict=True))
    (folder / "request.json").write_text(said["request"], encoding="utf-8")
    return said


def test_a_metric_stops_training_and_is_evaluated(trained: dict[str, str]) -> None:
    rows = [row for row in json.loads(trained["evaluate"])["rows"] if row["metric"] == "average_precision"]
    assert [row["stage"] for row in rows] == ["prerank", "rank"]
    for row in rows:
        assert 0 < row["low"] <= row["value"] <= row["high"] <= 1
    assert "average_precision" in trained["tables"]


def test_a_feature_is_listed_and_asked_for(trained: dict[str, str]) -> None:
    assert "cyclical" in trained["check"]
    assert "hour" in json.loads(trained["request"])["context"]


def test_a_bundle_is_read_with_the_plugins_that_the_user_names(
    trained: dict[str, str], run: Run, folder: Path
) -> None:
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert "cyclical_time" in manifest["plugins"]
    # the bundle's word is not enough, even where the plug-in is at hand
    rank: list[object] = ["rank", "bundle", "request.json", "--json"]
    absent, published, *named = run(
        rank, ["publish", "bundle", "lmdb:absent"], ["--plugin", "cyclical_time", *rank]
    )
    for one in (absent, published):
        assert one.code == 1 and "unknown kind 'cyclical'" in one.err
        assert "needs the plug-in" in one.err and "--plugin cyclical_time" in one.err
    assert not (folder / "absent").exists()
    (by_environment,) = outputs(run(rank, CORANK_PLUGINS="cyclical_time"))
    (answer,) = map(json.loads, outputs(named))
    assert len(answer["items"]) == 6 and answer["missing"] == answer["unknown"] == []
    assert json.loads(by_environment) == answer


def _compare(folder: Path, environment: dict[str, str], url: str, output: Path) -> None:
    """Compare a service's scores with evaluated ones; write their number and the largest difference."""
    _enter(folder, environment)
    compared = parity(CorankRun.open(Path("run")), url, 20)
    output.write_text(json.dumps([compared["scores"], float(compared["largest"])]))


def test_a_store_serves_what_was_evaluated(
    trained: dict[str, str], run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = ["--plugin", "cyclical_time", "--plugin", "folder_store"]
    address = f"folder:{folder / 'store'}"
    _, listed = outputs(run([*plugins, "publish", "bundle", address], [*plugins, "store", "ls", address]))
    assert "live" in listed
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder}")
    monkeypatch.setenv("CORANK_PLUGINS", "cyclical_time,folder_store")
    with running_service(address, folder / "cache", workers=2) as (url, _):
        request = json.loads((folder / "request.json").read_bytes())
        assert len(httpx2.post(f"{url}/rank", json=request).json()["items"]) == 6
        kills.run(
            _compare, folder, {"CORANK_PLUGINS": "cyclical_time,folder_store"}, url, folder / "found.json"
        )
    scores, largest = json.loads((folder / "found.json").read_text())
    assert scores == 20 * (30 + 18)
    assert largest < TOLERANCE
