"""The working folder of a packing keeps finished tasks, for the same packing alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corank.core.artifact import MANIFEST, ArtifactWriter, open_folder
from corank.core.errors import DataError, EngineError
from corank.core.files import PARTIAL
from corank.data.packed.manifest import PackManifest
from corank.data.packing.workspace import PackWorkspace, open_workspace
from corank.engine.base import InLineEngine
from tests.support.packing import World


@pytest.fixture
def manifest(world: World) -> PackManifest:
    """A manifest; that it is not of the files is not noticed when it is committed."""
    return world.pack().manifest


@contextmanager
def opened(
    folder: Path, fingerprint: str = "a" * 64, said: list[str] | None = None
) -> Iterator[PackWorkspace]:
    report = (lambda line: None) if said is None else said.append
    with open_workspace(folder / "out", fingerprint, (), InLineEngine(), report) as workspace:
        yield workspace


def interrupted(folder: Path, error: type[BaseException]) -> list[int]:
    """Run a step that an error ends at its third task. Returns the tasks that ran."""
    ran: list[int] = []

    def task(n: int) -> int:
        if n == 2 and len(ran) == 2:
            raise error("stop")
        ran.append(n)
        return n * n

    with opened(folder, "a" * 64) as workspace:
        assert workspace.run("squares", task, range(5)) == [0, 1, 4, 9, 16]
    return ran


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError])
def test_an_interrupted_packing_goes_on(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        interrupted(tmp_path, error)
    said: list[str] = []
    ran: list[int] = []
    seen: list[tuple[int, int]] = []

    def task(n: int) -> int:
        ran.append(n)
        return n * n

    with opened(tmp_path, said=said) as workspace:
        squares = workspace.run("squares", task, range(5), lambda *counts: seen.append(counts))
    assert squares == [0, 1, 4, 9, 16]
    assert ran == [2, 3, 4]
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert said == ["going on with a packing that was interrupted after 2 tasks"]
    assert list((tmp_path / "out").iterdir()) == []


def test_another_packing_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, KeyboardInterrupt)
    (left,) = (tmp_path / "out").iterdir()
    with opened(tmp_path, "b" * 64) as workspace:
        assert not left.exists()
        assert workspace.run_here("once", lambda: 3) == 3
        assert workspace.run_here("once", lambda: 4) == 3


def test_files_that_were_not_forced_to_disk_are_not_taken_after_a_crash_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, KeyboardInterrupt)
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr("corank.data.packing.workspace._BOOT", tmp_path / "boot")
    with opened(tmp_path) as workspace:
        assert not list(workspace.folder.glob("done/*"))


def test_what_is_published_is_not_taken_again(tmp_path: Path, manifest: PackManifest) -> None:
    """Killed after the packed data are in place, and before the working folder is removed."""
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(KeyboardInterrupt),
        ArtifactWriter.lock(tmp_path / "out", PackManifest, "pack") as writer,
        opened(tmp_path) as workspace,
    ):
        workspace.run("squares", abs, range(3))
        (workspace.packed / "file").write_text("packed")
        patched.setattr("shutil.rmtree", kill_at_partial)
        workspace.publish(writer, manifest)
    packed = open_folder(tmp_path / "out", PackManifest)
    assert (packed.folder / "file").read_text() == "packed"
    with opened(tmp_path) as workspace:
        assert not list(workspace.folder.glob("done/*"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([packed.folder.name, MANIFEST])


def test_what_is_half_removed_is_not_taken(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", kill)
        interrupted(tmp_path, DataError)
    with opened(tmp_path) as workspace:
        assert not list(workspace.folder.glob("done/*"))
    assert list((tmp_path / "out").iterdir()) == []


def kill(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def kill_at_partial(path: Path, **_: object) -> None:
    if path.name.startswith(PARTIAL):
        raise KeyboardInterrupt
