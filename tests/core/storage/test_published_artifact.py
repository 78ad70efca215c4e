"""Artifacts in a server that speaks S3's protocol, and the cache through which they are read."""

import os
import resource
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from corank.core.artifact import MANIFEST, new_content
from corank.core.artifact_cache import ArtifactCache, open_artifact, write_file
from corank.core.artifact_objects import Published, Publisher
from corank.core.errors import StorageError
from corank.core.objects import ObjectFolder, ObjectUrl
from tests.support.artifact_conformance import (
    SAME,
    ExclusiveConformance,
    Notes,
    ObjectPlace,
    files_of,
    number,
)
from tests.support.kills import count_changes, kill_at, run, start
from tests.support.object_store import ObjectStore

SIZE = sum(map(len, files_of(1).values()))


@pytest.fixture
def place(object_store: ObjectStore, tmp_path: Path) -> ObjectPlace:
    """A URL with notes."""
    return ObjectPlace(object_store, tmp_path)


class TestObjects(ExclusiveConformance):
    """The contract, in an object store."""


# Publishing


def test_files_that_did_not_change_are_not_sent_again(place: ObjectPlace) -> None:
    place.write(1)
    sent = set(place.names())
    place.write(2)
    assert {name.partition("/")[2] for name in sent & set(place.names())} == SAME.keys()


def test_objects_of_others_stay_and_places_elsewhere_are_refused(place: ObjectPlace) -> None:
    for name in ("0123456789abcdef/mine", "notes.txt"):
        place.bucket.put(f"{place.name}/{name}", b"mine")
    for n in (1, 2):
        place.write(n)
    assert place.leftovers() == {"0123456789abcdef/mine", "notes.txt"}
    for other in ("../x", "a/b", "", "sets", new_content()):
        place.edit(places=dict.fromkeys(files_of(2), other))
        assert str(place.url) in place.refusal()


def test_a_lost_reply_is_no_conflict(place: ObjectPlace) -> None:
    """The switch was made, its reply lost, and the repeated request is refused."""
    publisher = Publisher.open(place.url, Notes)
    published = publisher.publish(*place.job(1)[-2:])
    publisher.before = None  # as before the switch
    assert publisher._switch(published.folder, published.manifest) == published.revision


def test_a_manifest_that_no_reader_takes_is_not_published(place: ObjectPlace) -> None:
    place.write(1)
    folder, manifest = place.job(2)[-2:]
    long = manifest.model_copy(update={"text": "x" * Notes.most_bytes})
    with pytest.raises(StorageError, match=rf"{place.url}/{MANIFEST}: .* are read"):
        Publisher.open(place.url, Notes).publish(folder, long)
    assert place.read() == 1


def test_what_is_not_there_and_a_store_that_refuses_are_named(
    place: ObjectPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{place.url}: no notes here" in place.refusal()
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket; make it"):
        Publisher.open(ObjectUrl.parse("s3://no-such-bucket/notes"), Notes)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StorageError, match=r"cannot be reached.*AWS_ENDPOINT_URL"):
            place.read()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "credentials" in place.refusal()


def test_a_file_is_one_object_of_a_bounded_size(object_store: ObjectStore) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/out/vectors.parquet")
    with write_file(url) as path:
        path.write_bytes(b"vectors")
    with pytest.raises(ValueError, match="by the block"), write_file(url) as path:
        path.write_bytes(b"half")
        raise ValueError("by the block")
    assert object_store.get("out/vectors.parquet") == b"vectors"
    folder = ObjectFolder(ObjectUrl.parse(f"{object_store.url}/out"))
    with pytest.raises(StorageError, match="7 bytes; at most 6 are read"):
        folder.read("vectors.parquet", 6)
    assert folder.read("vectors.parquet", 7)[0] == b"vectors"


# The cache


def test_the_cache_stays_within_its_bound_and_what_was_used_last_stays(
    place: ObjectPlace, tmp_path: Path
) -> None:
    place.write(1)
    published, files = Published.open(place.url, Notes), files_of(1)
    first, second = len(files["first"]), len(files["items/second"])
    cache = ArtifactCache(tmp_path / "small", first + second)

    def fetch(*names: str) -> Path:
        cached = cache.fetch(published, lambda name: name in names).folder
        assert all((cached / name).read_bytes() == files[name] for name in names)
        assert sum(path.stat().st_size for path in cache.folder.rglob("*") if path.is_file()) <= cache.bound
        return cached

    other, kept = fetch("first"), fetch("first", "same")
    for n, path in enumerate((other, kept)):
        os.utime(path, (n, n))
    assert fetch("first") == other
    fetch("items/second")
    assert other.exists() and not kept.exists()
    with pytest.raises(StorageError, match=rf"{SIZE:,} bytes are needed at once.*CORANK_CACHE_GIB"):
        cache.fetch(published)


def test_parts_leave_the_cache_before_an_artifact_of_the_day(place: ObjectPlace, tmp_path: Path) -> None:
    place.write(1)
    published, sizes = Published.open(place.url, Notes), {n: len(c) for n, c in files_of(1).items()}
    cache = ArtifactCache(tmp_path / "small", sizes["first"] + sizes["items/second"])
    whole = cache.fetch(published, lambda name: name == "first").folder
    part = cache.fetch(published, lambda name: name == "items/second", part=True).folder
    cache.fetch(published, lambda name: name == "same", part=True)
    assert whole.exists() and not part.exists()
    os.utime(whole, (1, 1))
    cache.fetch(published, lambda name: name == "items/second", part=True)
    assert not whole.exists()


def test_a_damaged_entry_is_fetched_again_also_while_it_is_read(place: ObjectPlace) -> None:
    place.write(1)
    opened = open_artifact(place.url, Notes)
    (opened.folder / "first").unlink()
    assert place.read() == 1
    again = open_artifact(place.url, Notes)
    (opened.folder / "same").write_bytes(b"")
    assert place.read() == 1
    del opened, again
    place.write(2)
    assert place.read() == 2
    assert not list((place.work / "cache").glob(".partial-*"))


def test_a_cache_is_sound_at_every_step_of_a_killed_reader(place: ObjectPlace) -> None:
    place.write(1)
    cache, job = place.work / "cache", (read_notes, place.bucket.environment, place.work, place.url)
    steps = count_changes(*job)
    for step in range(1, steps + 1):
        shutil.rmtree(cache)
        kill_at(step, *job)
        assert place.read() == 1
        assert len([path for path in cache.iterdir() if path.is_dir()]) == 1, step


def test_processes_fetch_once_and_a_full_disk_is_named(place: ObjectPlace) -> None:
    place.write(1)
    arguments = place.bucket.environment, place.work, place.url
    run(_read_on_full_disk, *arguments)
    assert not [path for path in (place.work / "cache").iterdir() if path.is_dir()]
    (place.work / "fetched").write_bytes(b"")
    readers = [start(read_notes, *arguments) for _ in range(4)]
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert (place.work / "fetched").read_bytes() == b"x" * len(files_of(1))


def read_notes(environment: dict[str, str], work: Path, url: ObjectUrl) -> None:
    """Read notes through a cache, and note how many files were fetched."""
    os.environ.update(environment | {"CORANK_CACHE": str(work / "cache")})
    download = ObjectFolder.download

    def note(objects: ObjectFolder, name: str, file: BinaryIO, most: int) -> Any:
        with (work / "fetched").open("ab") as fetched:
            fetched.write(b"x")
        return download(objects, name, file, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectFolder, "download", note)
        assert number(open_artifact(url, Notes).folder) == 1


def _read_on_full_disk(environment: dict[str, str], work: Path, url: ObjectUrl) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
    with pytest.raises(StorageError, match=r"cache: files cannot be kept there: .*Errno 27"):
        read_notes(environment, work, url)
