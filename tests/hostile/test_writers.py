"""Two writers of one target, and readers of one that is replaced: nothing is lost, and a refusal says why."""

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corank.bundle import bundle as bundles
from corank.bundle.bundle import Bundle, lock_bundle, write_bundle
from corank.bundle.manifest import BundleManifest, load_manifest
from corank.core.errors import BundleError, DataError
from corank.core.locks import WriteLock
from corank.data.packed.dataset import PackedDataset
from corank.training.run import Run
from tests.support.command_line import run_corank
from tests.support.shared import copy_run, derived
from tests.support.simulated_runs import make_world
from tests.support.writers import run_writers

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
    refresh, study = ["refresh", bundle, trained.base / "log" / "*.parquet"], ["study", config, "--out", out]
    cases: list[tuple[Path, str, list[list[object]]]] = [
        (bundle, "refresh", [["export", trained.folder, bundle]]),
        (bundle, "export", [refresh]),
        (run, "train", [[*train, "--overwrite"], [*train, "--resume"]]),
        (packed, "pack", [[*pack, "--without=price"], [*pack, "--set=data.timezone=Asia/Shanghai"]]),
        (out, "study", [study]),
        (out, "simulate", [["simulate", out]]),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    locks: dict[str, Callable[[Path, str], AbstractContextManager[object]]] = {
        "pack": WriteLock.of_replacement,
        "train": lambda run, command: Run.lock(run),
    }
    for target, command, others in cases:
        with locks.get(command, WriteLock.of_folder)(target, command):
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
    (run.folder / "model.safetensors").unlink()
    with Run.lock(run.folder):
        message = refusal(capsys, "export", run.folder, tmp_path / "bundle")
    assert message.startswith(
        f"{run.folder}: training has not finished; wait for corank train (process {os.getpid()} on "
    )
    assert refusal(capsys, "export", run.folder, tmp_path / "bundle") == (
        f"{run.folder}: training has not finished; go on with `corank train --resume`"
    )
    assert not (tmp_path / "bundle").exists()


def fill(bundle: Bundle) -> Callable[[Path], None]:
    def copy_parts(folder: Path) -> None:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)

    return copy_parts


def renumbered(manifest: BundleManifest, seq: int) -> BundleManifest:
    return manifest.model_copy(update={"items_seq": seq})


def test_a_bundle_that_was_restored_during_a_refresh_is_not_replaced(
    trained_bundle: Path, tmp_path: Path
) -> None:
    bundle = copy(trained_bundle, tmp_path / "bundle")
    opened = Bundle.open(bundle)
    backup = copy(bundle, tmp_path / "backup")
    write_bundle(bundle, renumbered(opened.manifest, 2), fill(opened))
    with lock_bundle(bundle, "refresh") as writer:
        shutil.copy(backup / "manifest.json", bundle / "manifest.json")
        with pytest.raises(BundleError) as error:
            writer.write(renumbered(opened.manifest, 3), fill(opened))
    assert str(error.value) == (
        f"{bundle}: was replaced by another program while this command ran; nothing was written; run it again"
    )
    assert Bundle.open(bundle) == opened
    assert not list(bundle.glob("*-3-*"))


def test_a_bundle_that_is_replaced_while_it_is_opened_is_opened_as_the_new_one(
    trained_bundle: Path, tmp_path: Path
) -> None:
    bundle = copy(trained_bundle, tmp_path / "bundle")
    first = load_manifest(bundle)
    parts = Bundle.open(trained_bundle)
    seqs = iter((2, 3, 4))

    def load_then_replace(*arguments: Any) -> BundleManifest:
        manifest = load_manifest(*arguments)
        if manifest.content == first.content:
            patch.setattr(bundles, "load_manifest", load_manifest)
            for seq in seqs:
                write_bundle(bundle, renumbered(first, seq), fill(parts))
        return manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "load_manifest", load_then_replace)
        opened = Bundle.open(bundle)
    assert opened.manifest.items_seq == 4
    assert opened == Bundle.open(bundle)


def test_packed_data_that_are_open_stay_as_they_are_when_they_are_packed_anew(tmp_path: Path) -> None:
    case = derived()
    world = Path(
        shutil.copytree(case.base, tmp_path / "world", ignore=shutil.ignore_patterns("bundle", "runs"))
    )
    folder = world / case.packed.folder.relative_to(case.base)
    opened, untouched = PackedDataset.open(folder), case.packed
    assert opened.read_encoders() == untouched.read_encoders()
    shutil.rmtree(folder)
    (folder / "encoders").mkdir(parents=True)
    with pytest.raises(DataError, match="was packed anew since this command began: run it again"):
        opened.read_encoders()
    assert opened.codes == untouched.codes and opened.users.equals(untouched.users)
    assert opened.item_keys.equals(untouched.item_keys)
    for split, shards in untouched.splits.items():
        for ours, theirs in zip(opened.splits[split], shards, strict=True):
            assert ours.keys.equals(theirs.keys) and np.array_equal(ours.query.ids, theirs.query.ids)


@pytest.mark.slow
def test_writers_that_are_killed_at_random_break_and_lose_nothing(tmp_path: Path) -> None:
    figures = run_writers(tmp_path, f"lmdb:{tmp_path / 'store'}", rounds=1, seed=5)
    assert figures["commands"] == 8
    assert figures["looks"] > 0
    assert (figures["broken"], figures["lost"], figures["unnamed"]) == (0, 0, 0)
