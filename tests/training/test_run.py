"""A run's folder: its contents, and contents that are refused."""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

import corank
from corank.core.errors import CheckpointError, DataError
from corank.testing.worlds import make_world, trained_run
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_files import load, save
from corank.training.checkpoints.manifest import remove
from corank.training.config.config_file import read
from corank.training.run import Run
from tests.support.shared import copy_run, shared


@pytest.fixture
def copied(trained: Run, tmp_path: Path) -> Run:
    """The finished run in a folder that the test may spoil."""
    return copy_run(trained, tmp_path / "copy")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run \(no run.json\); `corank train` makes one"):
        Run.open(tmp_path)


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_an_unfinished_run_is_told_to_go_on(copied: Run, tmp_path: Path, verb: str) -> None:
    remove(copied.checkpoint)
    with pytest.raises(CheckpointError, match=r"training has not finished; go on .* `corank train --resume`"):
        corank.evaluate(copied.folder) if verb == "evaluate" else corank.export(copied.folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_training_is_not_overwritten_unasked(world: Path, copied: Run) -> None:
    config = world / "config.yaml"
    before = (copied.checkpoint / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"holds a training; go .* --resume, or start over with --over"):
        trained_run(config, copied.folder)
    assert (copied.checkpoint / "manifest.json").read_bytes() == before
    run = trained_run(config, copied.folder, "train.seed=5", overwrite=True)
    assert Run.open(run.folder).config.train.seed == 5
    assert (copied.checkpoint / "manifest.json").read_bytes() != before


def test_resuming_with_another_config_names_the_keys(world: Path, copied: Run) -> None:
    config = world / "config.yaml"
    with pytest.raises(CheckpointError) as caught:
        trained_run(
            config, copied.folder, "train.table.lr=0.01", "stages.1.hidden=[16]", "drift.rows=3", resume=True
        )
    message = str(caught.value)
    assert "a checkpoint of another config (stages.1.hidden.1: 8 there, None now; " in message
    assert "train.table.lr: 0.05 there, 0.01 now)" in message
    remove(copied.checkpoint)
    with pytest.raises(CheckpointError, match=r"latest: a checkpoint of another config \(train.seed"):
        trained_run(config, copied.folder, "train.seed=4", resume=True)


def _train_few(folder: Path) -> None:
    trained_run(make_world(folder / "few" / "world", requests=300), folder / "few" / "run")


@pytest.fixture
def few(tmp_path: Path) -> tuple[Path, Run]:
    """The config of a world of 300 requests, which the test may spoil, and a finished run of it."""
    folder = shutil.copytree(shared("few", _train_few) / "few", tmp_path / "few")
    return folder / "world" / "config.yaml", Run.open(folder / "run")


@pytest.mark.slow
def test_a_model_of_another_packing_is_refused(few: tuple[Path, Run], tmp_path: Path) -> None:
    """Its codes are those of other vocabularies: its scores would be wrong."""
    config, run = few
    corank.pack(config)
    corank.evaluate(run.folder)
    make_world(tmp_path / "other", requests=300, users=30, items=90)
    for name in ("log", "truth", "items.parquet", "users.parquet"):
        old, new = config.parent / name, tmp_path / "other" / name
        shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.move(new, old)
    with pytest.raises(DataError, match="packed from another config or other files: run `corank pack` again"):
        corank.evaluate(run.folder)
    corank.pack(config)
    for act in (lambda: corank.evaluate(run.folder), lambda: trained_run(config, run.folder, resume=True)):
        with pytest.raises(CheckpointError, match="another packing, with other codes"):
            act()


def test_a_changed_log_makes_the_packing_stale_until_it_is_put_back(
    few: tuple[Path, Run], tmp_path: Path
) -> None:
    config, run = few
    log = next((config.parent / "log").iterdir())
    before, times = log.read_bytes(), log.stat()
    pl.read_parquet(log)[:-1].write_parquet(log)
    again = "run `corank pack` again"
    with pytest.raises(DataError, match=again):
        corank.evaluate(run.folder)
    with pytest.raises(DataError, match=again):
        corank.export(run.folder, tmp_path / "bundle")
    with pytest.raises(DataError, match=again):
        trained_run(config, tmp_path / "other")
    assert not (tmp_path / "other" / "run.json").exists()
    log.write_bytes(before)
    os.utime(log, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert corank.evaluate(run.folder).row("rows.requests")["n"] > 0


def test_best_alone_is_no_training_state(world: Path, trained: Run, tmp_path: Path) -> None:
    """Killed between the first best and the first latest: --resume begins anew."""
    save(tmp_path / "best", Checkpoint({"x": torch.zeros(1)}, {}))
    run = trained_run(world / "config.yaml", tmp_path, resume=True)
    ours, theirs = (load(r.folder / "model").tensors for r in (run, trained))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert read(world / "config.yaml") == Run.open(tmp_path).config
