"""Two writers of one target, and readers of one that is replaced: nothing is lost, and a refusal says why."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from corank.core.locks import WriteLock
from corank.data.packed.dataset import PackedDataset
from corank.testing.worlds import make_world
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.random_worlds import RICH
from tests.support.service import running_service
from tests.support.shared import copy_run, shared_case

Capture = pytest.CaptureFixture[str]


def copy(bundle: Path, to: Path) -> Path:
    return Path(shutil.copytree(bundle, to))


def refusal(capsys: Capture, *arguments: object) -> str:
    """The error of a command that exits with 1."""
    code, _, err = run_corank(capsys, *arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    return err.removeprefix("error: ").strip()


def told(target: Path, command: str) -> str:
    """How a message about a target begins that this process writes."""
    return f"{target}: corank {command} (process {os.getpid()} on {socket.gethostname()}, since "


def test_a_second_writer_is_told_of_the_first_and_changes_nothing(
    capsys: Capture, trained: Run, trained_bundle: Path, tmp_path: Path
) -> None:
    config, world = trained.base / "config.yaml", make_world(tmp_path / "world", 60, 10, 10, 20)
    bundle, run = copy(trained_bundle, tmp_path / "bundle"), copy_run(trained, tmp_path / "run").folder
    packed, out = tmp_path / "world" / "packed" / "simulated-medium", tmp_path / "out"
    out.mkdir()
    train, pack = ["train", config, "--run", run], ["pack", world]
    refresh = ["refresh", bundle, trained.base / "log" / "*.parquet"]
    experiment = ["experiment", config, "structures", "--out", out]
    cases: list[tuple[Path, str, list[list[object]]]] = [
        (bundle, "refresh", [["export", trained.folder, bundle]]),
        (bundle, "export", [refresh]),
        (run, "train", [[*train, "--overwrite"], [*train, "--resume"]]),
        (packed, "pack", [[*pack, "--without=price"], [*pack, "--set=data.timezone=Asia/Shanghai"]]),
        (out, "experiment", [experiment]),
        (out, "simulate", [["simulate", out]]),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for target, command, others in cases:
        with Run.lock(run) if command == "train" else WriteLock(target, command):
            for other in others:
                message = refusal(capsys, *other)
                assert message.startswith(told(target, command))
                assert message.endswith("is writing it; wait until it has ended, or end that process")
            if command == "pack":
                PackedDataset.open(packed)  # readers do not wait
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_export_of_a_run_in_training_is_told_who_trains(
    capsys: Capture, trained: Run, tmp_path: Path
) -> None:
    run = copy_run(trained, tmp_path / "run")
    shutil.rmtree(run.folder / "model")
    with Run.lock(run.folder):
        message = refusal(capsys, "export", run.folder, tmp_path / "bundle")
    assert message.startswith(
        f"{run.folder}: training has not finished; wait for corank train (process {os.getpid()} on "
    )
    assert refusal(capsys, "export", run.folder, tmp_path / "bundle") == (
        f"{run.folder}: training has not finished; go on with `corank train --resume`"
    )
    assert not (tmp_path / "bundle").exists()


def test_a_service_answers_the_same_after_its_files_were_removed(tmp_path: Path) -> None:
    """As the next but one export does, and whoever makes room in a cache."""
    case = shared_case(RICH)
    bundle, valid = copy(case.base / "bundle", tmp_path / "bundle"), case.request("test", 0)
    with running_service(str(bundle), tmp_path / "cache") as (url, _):
        before = httpx2.post(f"{url}/rank", json=valid).json()["items"]
        for content in filter(Path.is_dir, bundle.iterdir()):
            shutil.rmtree(content)
        for n in range(20):
            request = case.request("test", n % 4)
            assert httpx2.post(f"{url}/rank", json=request).status_code == 200
        assert httpx2.post(f"{url}/rank", json=valid).json()["items"] == before


@pytest.mark.slow
def test_writers_that_are_killed_at_random_break_and_lose_nothing() -> None:
    """A round of `scripts/bench writers`."""
    command = [sys.executable, "-m", "benchmarks.robustness.writers", "--json", "--rounds=1", "--seed=5"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout)["figures"]
    assert figures["commands"] == 8
    assert figures["looks"] > 0
    assert (figures["broken"], figures["lost"], figures["unnamed"]) == (0, 0, 0)
