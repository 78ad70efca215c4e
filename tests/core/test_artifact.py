"""Artifacts on a local disk."""

import json
import mmap
import os
import resource
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from corank.core.artifact import MANIFEST, Artifact, ArtifactWriter, new_content, open_folder, read_manifest
from corank.core.artifact_cache import open_artifact
from corank.core.errors import BusyError
from tests.support.artifact_conformance import (
    ExclusiveConformance,
    FolderPlace,
    Notes,
    NotesError,
    fill,
    number,
)
from tests.support.kills import kill_at, run


@pytest.fixture
def place(tmp_path: Path) -> FolderPlace:
    """A folder of notes."""
    return FolderPlace(tmp_path)


class TestFolder(ExclusiveConformance):
    """The contract, of a small kind in a folder."""


# What is read


def test_links_pipes_and_files_that_are_not_named_are_refused(place: FolderPlace, tmp_path: Path) -> None:
    place.write(1)
    content, elsewhere = place.content, tmp_path / "elsewhere"
    for path in (content / "first", content / "items", content, place.path / MANIFEST):
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert "a link, or no folder" in place.refusal()
        with nullcontext() if path.name == "first" else pytest.raises(NotesError):
            open_folder(place.path, Notes, wanted=lambda name: name == "same")
        path.unlink()
        elsewhere.rename(path)
    for path in (content / "first", place.path / MANIFEST):
        path.rename(elsewhere)
        os.mkfifo(path)
        assert "not a regular file" in place.refusal()
        path.unlink()
        elsewhere.rename(path)
    for name in ("more", "items/.hidden", "deep/er/x"):
        (content / name).touch()
        assert f"{content / name}: is not named by the manifest; remove it" in place.refusal()
        (content / name).unlink()
    assert place.read() == 1


def test_a_manifest_of_object_storage_or_of_any_size_is_refused_and_replaced(place: FolderPlace) -> None:
    place.write(1)
    place.edit(places=dict.fromkeys(json.loads(place.load(MANIFEST))["files"], new_content()))
    assert "places: is of object storage; read it by its URL" in place.refusal()
    os.truncate(place.path / MANIFEST, 2**40)
    assert "at most 65,536 are read" in place.refusal()
    place.write(2)
    assert place.read() == 2 and not place.leftovers()


def test_a_content_stays_until_the_writer_after_the_next_begins_and_mapped_for_longer(
    place: FolderPlace,
) -> None:
    place.write(1)
    opened = open_folder(place.path, Notes)
    with (opened.folder / "first").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    place.write(2)
    assert number(opened.folder) == 1
    with ArtifactWriter.lock(place.path, Notes, "note"):
        assert not opened.folder.exists() and place.read() == 2
    assert mapped[:4] == b"0001"


# What is written


def test_folders_and_files_of_others_are_left_alone(place: FolderPlace, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for name in (
        "0/notes.txt",
        "1/0123456789abcdef/mine",
        f"2/{MANIFEST}",
        "3/sets/mine",
        f"3/{MANIFEST}",
        "4/a/x",
    ):
        _put(others / name)
    os.mkfifo(others / "4" / MANIFEST)
    (others / "5").write_text("mine")
    for name in ("6", "7"):
        write_notes(others / name, 1)
    plain = json.loads((others / "6" / MANIFEST).read_bytes())
    (others / "6" / MANIFEST).write_text(json.dumps(plain | {"kind": "another"}))
    _put(others / "7" / "mine")
    _put(others / "7" / MANIFEST)
    before = _list(others)
    for path in sorted(others.iterdir()):
        with pytest.raises(NotesError, match=f"^{path}: .*; name another"):
            write_notes(path, 2)
        assert _list(others) == before
    place.write(1)
    for name in ("notes.txt", "0123456789abcdef/mine", "sets/mine", ".partial-mine"):
        _put(place.path / name)
    place.write(2)
    assert place.leftovers() == {"notes.txt", "0123456789abcdef", "sets", ".partial-mine"}


def write_notes(path: Path, n: int) -> None:
    FolderPlace(path.parent, path.name).write(n)


def _put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"mine": 1}')


def _list(path: Path) -> list[str]:
    return sorted(map(str, [path, *path.rglob("*")]))


def test_what_is_damaged_or_of_another_format_is_replaced(place: FolderPlace) -> None:
    place.write(1)
    sound = place.load(MANIFEST)
    for raw in (
        b"",
        sound[:-5],
        b"[]",
        b'{"content": 1}',
        json.dumps(json.loads(sound) | {"format": 2}).encode(),
    ):
        place.store(MANIFEST, raw)
        place.write(2)
        assert place.read() == 2 and not place.leftovers()


def test_a_manifest_that_no_reader_takes_is_not_written(place: FolderPlace) -> None:
    place.write(1)
    long = "x" * Notes.most_bytes
    with (
        ArtifactWriter.lock(place.path, Notes, "note") as writer,
        pytest.raises(NotesError, match="are read"),
    ):
        writer.write(new_content(), lambda folder: fill(folder, 2).model_copy(update={"text": long}))
    assert place.read() == 1 and not place.leftovers()


def test_an_artifact_that_another_program_replaced_is_not_written(place: FolderPlace, tmp_path: Path) -> None:
    place.write(1)
    backup = shutil.copytree(place.path, tmp_path / "backup")
    place.write(2)
    with ArtifactWriter.lock(place.path, Notes, "note") as writer:
        shutil.copytree(backup, place.path, dirs_exist_ok=True)
        with pytest.raises(NotesError, match=r"replaced by another program .* this command ran; nothing was"):
            writer.write(new_content(), lambda folder: fill(folder, 3))
    assert place.read() == 1


def test_a_restored_content_takes_the_place_of_a_damaged_one_that_is_read(place: FolderPlace) -> None:
    place.write(1)
    opened = open_folder(place.path, Notes)
    first = (opened.folder / "first").open("rb")  # its reader maps it
    (opened.folder / "items" / "second").unlink()

    def restore(complete: bool, manifest: Notes = opened.manifest) -> Artifact[Notes]:
        def fill_some(folder: Path) -> None:
            fill(folder, 1)
            if not complete:
                (folder / "first").write_bytes(b"altered")

        with ArtifactWriter.lock(place.path, Notes, "note") as writer:
            return writer.restore(manifest, manifest.plain(), fill_some)

    with pytest.raises(NotesError, match="first: is not as published; publish it again"):
        restore(complete=False)
    assert "items/second" in place.refusal() and (opened.folder / "first").exists()
    restored = restore(complete=True)
    assert restored.manifest == opened.manifest and place.read() == 1
    assert os.fstat(first.fileno()).st_nlink == 1, "what is read was removed"
    first.close()
    place.write(2)
    assert not place.leftovers()


def test_a_full_disk_leaves_what_was_there(place: FolderPlace) -> None:
    place.write(1)
    for size in (0, 10, 1_000, 4_000, 20_000):
        run(_write_on_full_disk, place.path, size)
        assert place.read() == 1 and not place.leftovers()


def _write_on_full_disk(path: Path, size: int) -> None:
    """Write with files of at most so many bytes: those of the content, or the manifest alone, are too large."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    with ArtifactWriter.lock(path, Notes, "note") as writer:
        try:
            writer.write(
                new_content(), lambda folder: Notes(text="x" * 30_000) if size == 20_000 else fill(folder, 2)
            )
        except NotesError as error:
            assert "cannot be written: [Errno 27]" in str(error)
            assert "; what was there before is untouched; free space" in str(error)
        else:
            raise AssertionError("it was written")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "notes", Path("/proc/notes")):
        with pytest.raises(NotesError, match=f"^{path}: cannot be written"):
            write_notes(path, 1)


def test_readers_do_not_wait_for_a_writer_and_a_location_may_be_a_folder(place: FolderPlace) -> None:
    place.write(1)
    with place.writing() as complete:
        assert open_artifact(place.path, Notes).manifest == read_manifest(place.path, Notes)
        with pytest.raises(BusyError, match=f"^{place.path}: corank note "):
            place.write(2)
        complete()
    kill_at(1, *place.job(9))
    assert place.read() == 8
