"""Runs that several ranks wrote, read by one process: the same as runs of one."""

import shutil
from pathlib import Path

import pytest
import torch

import corank
from corank.training.checkpoints.checkpoint_files import load
from corank.training.run import Run
from tests.support.simulated_runs import trained_run
from tests.support.split_runs import split_run


@pytest.fixture(scope="module")
def split(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return split_run(trained, tmp_path_factory.mktemp("split") / "run", ranks=3)


def test_it_is_finished_and_its_model_is_the_same(trained: Run, split: Run) -> None:
    assert split.finished and Run.has_begun(split.folder)
    packed = split.packed()
    (ours, our_calibrators), (theirs, their_calibrators) = split.model(packed), trained.model(packed)
    assert our_calibrators == their_calibrators
    expected = theirs.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert split.trained(packed).facts == trained.trained(packed).facts


@pytest.mark.slow
def test_its_bundle_is_the_same_byte_for_byte(trained: Run, split: Run, tmp_path: Path) -> None:
    ours, theirs = (
        corank.export(run.folder, tmp_path / name).bundle.manifest
        for run, name in ((split, "a"), (trained, "b"))
    )
    assert (ours.model_version, ours.files) == (theirs.model_version, theirs.files)


def test_one_process_goes_on_and_ends_with_the_same_weights(
    world: Path, trained: Run, split: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(split.folder, tmp_path / "run"))
    shutil.rmtree(folder / "model")
    run = trained_run(world / "config.yaml", folder, resume=True)
    ours, theirs = (load(r.folder / "model").tensors for r in (run, trained))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
