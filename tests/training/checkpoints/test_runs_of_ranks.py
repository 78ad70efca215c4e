"""Runs that several ranks wrote, read by one process: the same as runs of one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import corank
from corank.core.errors import CheckpointError
from corank.training.checkpoints.checkpoint import Checkpoint, load, save
from corank.training.run import Run
from tests.support.shared import copy_run
from tests.support.simulated_runs import trained_run
from tests.support.split_runs import split_run, with_tables, write_folder


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
    assert (ours.model_version, ours.parts) == (theirs.model_version, theirs.parts)


def test_the_networks_of_a_run_hold_no_table(trained: Run, split: Run) -> None:
    for run in (trained, split):
        model, _, weights = run.networks(run.packed())
        for name, tensor in model.state_dict().items():
            if name.startswith("tables."):
                assert len(tensor) == 0 and weights.shape(name)[0] > 0
            else:
                assert torch.equal(tensor, weights.whole(name))


def test_one_process_goes_on_and_ends_with_files(
    world: Path, trained: Run, split: Run, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(split.folder, tmp_path / "run"))
    shutil.rmtree(folder / "model")
    run = trained_run(world / "config.yaml", folder, resume=True)
    assert (run.folder / "model.safetensors").is_file() and not (run.folder / "model").exists()
    ours, theirs = (load(r.folder / "model.safetensors").tensors for r in (run, trained))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_new_training_removes_what_ranks_wrote(world: Path, split: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(split.folder, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="holds a training; go on with --resume"):
        trained_run(world / "config.yaml", folder)
    Run.create(folder, split.config, split.base)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_where_tables_lie_may_change_when_a_training_goes_on(
    world: Path, trained: Run, tmp_path: Path
) -> None:
    run = copy_run(trained, tmp_path / "run")
    trained_run(world / "config.yaml", run.folder, "train.tables=replicated", resume=True)
    with pytest.raises(CheckpointError, match=r"a checkpoint of another config \(train.seed"):
        trained_run(world / "config.yaml", run.folder, "train.seed=9", resume=True)


def test_an_altered_file_of_a_rank_is_refused(split: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(split.folder, tmp_path / "run"))
    (path,) = folder.glob("model/*/shard-00002-of-00003.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for act in (lambda: corank.evaluate(folder), lambda: corank.export(folder, tmp_path / "bundle")):
        with pytest.raises(
            CheckpointError, match=r"shard-00002-of-00003.safetensors: does not match its size"
        ):
            act()


# Not detected by a digest: contents that are whole but of another training

Change = Callable[[Checkpoint], object]
STATES: dict[str, tuple[Change, str]] = {
    "no weight": (lambda c: c.tensors.pop("model.stages.rank.first.weight"), "rank.first.weight is missing"),
    "more": (
        lambda c: c.tensors.update({"model.x": torch.zeros(1)}),
        "model.x is none of this model",
    ),
    "shape": (
        lambda c: c.tensors.update({"model.stages.rank.first.weight": torch.zeros(2)}),
        r"rank.first.weight: expected the shape \(\d+, \d+\); found \(2,\)",
    ),
    "no sum": (lambda c: c.tensors.pop("optimiser.rank.0.step"), "optimiser.rank.0.step is missing"),
    "shape of a sum": (
        lambda c: c.tensors.update({"optimiser.table.0.sum": torch.zeros(5)}),
        r"optimiser.table.0.sum: expected the shape \(\d+,\); found \(5,\)",
    ),
    "number": (
        lambda c: c.tensors.update({"optimiser.table.9.sum": torch.zeros(5)}),
        "table.9.sum is of another",
    ),
    "name": (
        lambda c: c.tensors.update({"optimiser.x": torch.zeros(5)}),
        "optimiser.x is of another optimiser",
    ),
    "progress": (
        lambda c: c.facts["progress"].pop("epoch") and c.facts.update(progress=3),
        "facts.progress: Input should be a dictionary",
    ),
    "step": (lambda c: c.facts["progress"].update(step="many"), "facts.progress.step: Input should"),
}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("name", STATES)
def test_a_state_of_another_training_is_refused(
    world: Path, trained: Run, tmp_path: Path, name: str, kind: str
) -> None:
    run = copy_run(trained, tmp_path / "run")
    (run.folder / "model.safetensors").unlink()
    change, said = STATES[name]
    checkpoint = run.latest.load()
    change(checkpoint)
    if kind == "file":
        save(run.latest.file, checkpoint)
    else:
        write_folder(run.latest.folder, with_tables(checkpoint), 2)
    with pytest.raises(
        CheckpointError, match=rf"latest(\.safetensors|/manifest.json)?: .*{said}.*train again"
    ):
        trained_run(world / "config.yaml", run.folder, resume=True)


@pytest.mark.parametrize("calibrators", [3, {}, {"prerank": {}}, {"rank": {"click": {"slope": -1}}}])
def test_calibrators_of_another_run_are_refused(trained: Run, tmp_path: Path, calibrators: object) -> None:
    run = copy_run(trained, tmp_path / "run")
    checkpoint = load(run.folder / "model.safetensors")
    save(
        run.folder / "model.safetensors",
        Checkpoint(checkpoint.tensors, checkpoint.facts | {"calibrators": calibrators}),
    )
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: its calibrators are not those of its stages; train"
    ):
        run.model(run.packed())
