"""Processes killed at every change of a folder: what they were to replace is the old one or the new one, never none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import corank
from corank.core import files
from corank.core.errors import DataError
from corank.core.files import atomic_folder, restore_folder
from corank.data.packed.dataset import PackedDataset
from corank.training.run import Run
from tests.support.kills import count_changes, kill_at, run
from tests.support.shared import copy_run, finished_run
from tests.support.simulated_runs import make_world

PARTS = ("a", "b")


def _refuse_exchange(a: Path, b: Path) -> bool:
    """Stands for a file system that cannot exchange names."""
    return False


def write(path: Path, text: str) -> None:
    with atomic_folder(path, replace=True) as folder:
        for part in PARTS:
            (folder / part).write_text(text)


def write_without_exchange(path: Path, text: str) -> None:
    files._exchange = _refuse_exchange
    write(path, text)


def content(path: Path) -> list[str]:
    restore_folder(path)
    return [(path / part).read_text() for part in PARTS]


@pytest.mark.parametrize("write_folder", [write, write_without_exchange])
def test_a_replaced_folder_is_the_old_or_the_new_wherever_the_writer_is_killed(
    tmp_path: Path, write_folder: Callable[[Path, str], None]
) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    changes = count_changes(write_folder, path, "old")
    seen = set()
    for change in range(1, changes + 1):
        kill_at(change, write_folder, path, "new")
        contents = content(path)
        assert contents in (["old"] * 2, ["new"] * 2), change
        seen.add(contents[0])
        with pytest.raises(ValueError, match="fails"), atomic_folder(path, replace=True):
            raise ValueError("fails")
        assert content(path) == contents, f"a writer that fails after kill {change} removed it"
        write(path, "old")
        assert list(tmp_path.iterdir()) == [path], f"kill {change} left something for good"
    assert seen == {"old", "new"}


def test_a_folder_that_was_moved_away_is_not_removed_while_there_is_no_other(tmp_path: Path) -> None:
    path, moved = tmp_path / "folder", tmp_path / ".moved-folder"
    write(moved, "old")
    with pytest.raises(ValueError, match="fails"), atomic_folder(path, replace=True):
        raise ValueError("fails")
    assert content(path) == ["old", "old"]


def test_a_reader_that_restores_during_a_replacement_does_not_stop_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write(path, "old")
    restored: list[Path] = []
    sync = files.sync

    def restore_then_sync(folder: Path) -> None:
        if not path.exists() and not restored:
            restored.append(path)
            restore_folder(path)
        sync(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_exchange", _refuse_exchange)
        patch.setattr(files, "sync", restore_then_sync)
        write(path, "new")
    assert restored
    assert content(path) == ["new", "new"]


def test_a_link_to_a_folder_stays_and_a_folder_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    folder, link, path = tmp_path / "disk" / "folder", tmp_path / "link", tmp_path / "folder"
    folder.parent.mkdir()
    write(folder, "old")
    link.symlink_to(folder)
    write(link, "new")
    assert link.is_symlink() and content(folder) == ["new", "new"] and [*folder.parent.iterdir()] == [folder]
    with pytest.raises(DataError, match="exists and is not an empty folder"), atomic_folder(path) as folder:
        (folder / "a").write_text("second")
        write(path, "first")
    assert content(path) == ["first", "first"]


def pack(config: Path, *overrides: str) -> None:
    corank.pack(config, overrides)


@pytest.mark.slow
def test_packed_data_are_the_old_or_the_new_wherever_packing_is_killed(tmp_path: Path) -> None:
    config = make_world(tmp_path / "world", requests=60, candidates=10, users=10, items=20)
    packed = tmp_path / "world" / "packed" / "simulated-medium"
    fingerprint = PackedDataset.open(packed).manifest.fingerprint
    other = "data.timezone=Asia/Shanghai"
    changes = count_changes(pack, config, other)
    for change in range(changes - 8, changes + 1, 2):
        run(pack, config)
        kill_at(change, pack, config, other)
        current = PackedDataset.open(packed).manifest.fingerprint
        with pytest.raises(DataError):
            corank.pack(config, ["data.log=none/*.parquet"])
        assert PackedDataset.open(packed).manifest.fingerprint == current, change
    assert current != fingerprint


def read_files(folder: Path) -> dict[str, bytes]:
    """Contents of the files of packed data, without sets of other features."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    relative = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in relative.items() if not name.startswith("sets/")}


@pytest.mark.slow
def test_added_features_are_packed_the_same_wherever_packing_is_killed(tmp_path: Path) -> None:
    config = make_world(tmp_path / "world", requests=60, candidates=10, users=10, items=20)
    packed = tmp_path / "world" / "packed" / "simulated-medium"
    added = ("features.ctr={kind: prior, by: [brand], label: click}", "features.price.scale=standard")
    earlier = corank.pack(config, ["features.tab=null"]).packed.folder
    before = read_files(packed), read_files(earlier)
    changes = count_changes(pack, config, *added)
    (folder,) = (path for path in (packed / "sets").iterdir() if path != earlier)
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
        assert copy.finished or not copy.latest.exists or copy.best.load(), change
        assert Run.open(copy.folder).config == trained.config
    config = trained.base / "config.yaml"
    for change in (2, 3):  # the model is gone; then the training state, too
        again = corank.train(config, resume=True, folder=tmp_path / f"run{change}").run
        assert again.finished
