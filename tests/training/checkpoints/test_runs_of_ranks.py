"""Runs that several ranks wrote, read by one process: the same as runs of one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import corank
from corank.testing.worlds import trained_run
from corank.training.checkpoints import stored_weights
from corank.training.checkpoints.checkpoint_files import load
from corank.training.model_version import model_version
from corank.training.run import Run
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


def test_its_weights_are_read_without_their_model(
    trained: Run, split: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_weights, "PIECE_BYTES", 1 << 12)  # several pieces of a table
    expected = load(trained.checkpoint)
    for run in (trained, split):
        stored = stored_weights.StoredWeights.open(run.checkpoint)
        assert stored.names == expected.names
        pieces = {name: [*stored.pieces(name)] for name in stored.names}
        assert max(map(len, pieces.values())) > 1
        for name, read in pieces.items():
            assert stored.shape(name) == expected.shape(name)
            assert torch.equal(
                torch.from_numpy(np.concatenate(read) if read[0].shape else read[0]), expected.whole(name)
            )
    packed, calibrators = trained.packed(), trained.described(trained.packed())[1]
    versions = {model_version(trained.config, packed, weights, calibrators) for weights in (stored, expected)}
    assert len(versions) == 1


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
