"""Commands killed at changes of folders: what they were to replace can be used, and the next one goes on."""

import shutil
from pathlib import Path

import pytest

import corank
from corank.data.packed.dataset import PackedDataset
from corank.training.checkpoints.checkpoint_files import exists, load
from corank.training.run import Run
from tests.support.kills import count_changes, kill_at, run
from tests.support.shared import copy_run, finished_run
from tests.support.simulated_runs import make_world


def pack(config: Path, *overrides: str) -> None:
    corank.pack(config, overrides)


def read_files(folder: Path) -> dict[str, bytes]:
    """Contents of the files of packed data."""
    content = PackedDataset.open(folder).folder
    return {str(p.relative_to(content)): p.read_bytes() for p in content.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_added_features_are_packed_the_same_wherever_packing_is_killed(tmp_path: Path) -> None:
    config = make_world(tmp_path / "world", requests=60, candidates=10, users=10, items=20)
    packed = tmp_path / "world" / "packed" / "simulated-medium"
    added = ("features.ctr={kind: prior, by: [brand], label: click}", "features.price.scale=standard")
    earlier = corank.pack(config, ["features.tab=null"]).packed.location
    assert isinstance(earlier, Path)
    before = read_files(packed), read_files(earlier)
    changes = count_changes(pack, config, *added)
    (folder,) = (path for path in (packed / "sets").glob("[!.]*") if path != earlier)
    whole = read_files(folder)
    for change in [*range(5, changes, changes // 4), changes - 3]:
        shutil.rmtree(folder)
        kill_at(change, pack, config, *added)
        assert (read_files(packed), read_files(earlier)) == before, change
        run(pack, config, *added)
        assert read_files(folder) == whole, change
        assert set((packed / "sets").glob("[!.]*")) == {earlier, folder}
    assert (read_files(packed), read_files(earlier)) == before


def begin_anew(folder: Path) -> None:
    opened = Run.open(folder)
    Run.create(folder, opened.config, opened.base)


@pytest.mark.slow
def test_a_run_can_be_resumed_wherever_its_replacement_is_killed(tmp_path: Path) -> None:
    trained = finished_run()
    changes = count_changes(begin_anew, copy_run(trained, tmp_path / "counted").folder)
    for change in range(1, changes + 1):
        copy = copy_run(trained, tmp_path / f"run{change}")
        kill_at(change, begin_anew, copy.folder)
        assert copy.finished or not exists(copy.latest) or load(copy.best), change
        assert Run.open(copy.folder).config == trained.config
    config = trained.base / "config.yaml"
    for change in (2, changes // 2):  # the model is gone; then the training state, too
        again = corank.train(config, resume=True, folder=tmp_path / f"run{change}").run
        assert again.finished
