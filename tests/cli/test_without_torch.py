"""Commands that need no model run where torch is not installed: to load it takes longer than most of them."""

from pathlib import Path

from corank.training.run import Run
from tests.support.base_installation import run_without_extras
from tests.support.served_worlds import ServedWorld


def test_a_command_that_needs_no_model_loads_no_torch(
    world: Path, trained: Run, trained_bundle: Path, tmp_path: Path
) -> None:
    config, run, store = str(world / "config.yaml"), str(trained.folder), f"lmdb:{tmp_path}/store"
    served = ServedWorld().write(tmp_path / "served")
    tables = [f"--exposures={served / name}" for name in ("exposures.parquet", "clicks.csv")]
    packed = str(tmp_path / "packed")
    commands = [
        ["request", run],
        ["check", config],
        ["check", config, "--set=data.split={train: 2026-03-09..2026-03-10}", f"--against={run}"],
        ["pack", config, f"--set=packed={packed}", "--prune"],
        ["check", f"--verify={packed}"],
        ["publish", str(trained_bundle), store],
        ["store", "ls", store],
        ["store", "log", store],
        ["compare-served", str(served / "a"), str(served / "b"), *tables, "--effect=0.5"],
    ]
    for command, ended in zip(commands, run_without_extras(commands, absent=["torch"]), strict=True):
        assert ended.code == 0, (command, ended)
