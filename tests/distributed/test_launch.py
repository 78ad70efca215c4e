"""Trainings by several processes: by torchrun, by `--workers`, with a rank that dies, with a mistake of the user."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import corank
from corank.core.errors import CheckpointError, ConfigError, DistributedError
from corank.core.registry import PLUGINS
from corank.distributed.launch import launch
from corank.training.run import Run
from tests.support.shared import simulated_world
from tests.support.waiting import PATIENCE, eventually

SETTINGS = [
    "--set=train.epochs=4",
    "--set=train.checkpoint_every=2",
    "--set=train.average=0.9",
    "--set=train.precision=fp32",
    "--set=baseline=true",
]
WORKERS = ["-m", "corank", "train"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
# without the two dashes torchrun would take --run for an option of its own
TORCHRUN += ["-m", "--", "corank", "train"]


def start(command: list[str], folder: Path, *options: str, plugin: str = "") -> subprocess.Popen[str]:
    """A training of the simulated world into a folder."""
    arguments = [*command, str(simulated_world() / "config.yaml"), f"--run={folder}", *SETTINGS, *options]
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", PLUGINS: plugin},
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it printed."""
    try:
        printed = process.communicate(timeout=4 * PATIENCE)[1]  # a whole training
    finally:
        process.kill()
    return process.returncode, printed


def same_model(a: Run, b: Run) -> bool:
    """Whether two finished runs hold the same weights and calibrators, bit for bit."""
    (ours, fitted), (theirs, others) = (run.model(run.packed()) for run in (a, b))
    state = theirs.state_dict()
    return fitted == others and all(torch.equal(t, state[name]) for name, t in ours.state_dict().items())


@pytest.mark.slow
def test_a_killed_rank_under_torchrun_ends_as_an_unbroken_run_of_workers(tmp_path: Path) -> None:
    code, printed = end(
        start(TORCHRUN, tmp_path / "killed", "--timeout=60", plugin="tests.support.mortal_rank")
    )
    assert code == 0, printed
    assert printed.count("restart 1: going on from the last checkpoint") == 1
    assert printed.count("kept epoch") == 1
    assert printed.count("boosted trees on the same rows (test)") == 1

    code, printed = end(start(WORKERS, tmp_path / "whole", "--workers=2", "--timeout=60"))
    assert code == 0, printed
    assert "error" not in printed.lower()
    assert printed.count("kept epoch") == 1
    assert printed.count("boosted trees on the same rows (test)") == 1
    whole, restarted = Run.open(tmp_path / "whole"), Run.open(tmp_path / "killed")
    assert same_model(whole, restarted)
    assert (
        whole.trained(whole.packed()).facts["figures"]
        == restarted.trained(restarted.packed()).facts["figures"]
    )

    # a user's mistake is reported before a worker starts; one that the workers find is reported once
    with pytest.raises(CheckpointError, match="holds a training; go on with --resume, or start over"):
        corank.train(simulated_world() / "config.yaml", folder=tmp_path / "whole", workers=2)
    code, printed = end(start(WORKERS, tmp_path / "other", "--workers=2", f"--from={tmp_path}/none"))
    assert code == 1
    assert printed.startswith(f"error: {tmp_path}/none") and printed.count("\n") == 1, printed


@pytest.mark.slow
def test_sigterm_ends_a_launch_and_its_workers(tmp_path: Path) -> None:
    launcher = start(WORKERS, tmp_path / "run", "--workers=2", "--set=train.epochs=1000")
    eventually(lambda: launcher.poll() is not None or (tmp_path / "run" / "run.json").exists())
    assert launcher.poll() is None
    workers = psutil.Process(launcher.pid).children()
    launcher.terminate()
    code, printed = end(launcher)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in printed
    assert "signal" not in printed
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=PATIENCE)[1] == []


def test_what_cannot_be_launched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = simulated_world() / "config.yaml"
    with pytest.raises(ConfigError, match="--max-restarts needs --workers"):
        corank.train(config, folder=tmp_path, max_restarts=1)
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        corank.train(config, folder=tmp_path, workers=2, overrides=["train.epoch=1"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistributedError, match=r"--workers: WORLD_SIZE is set"):
        launch(["train", str(config)], 2)
