"""Publishing folders into a server that speaks S3's protocol, and reading them through the cache."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corank.core.artifact_cache import ArtifactCache
from corank.core.errors import BusyError, CorankError, MissingObjectError, StorageError
from corank.core.local_copy import read_folder, write_file
from corank.core.objects import ObjectFolder, ObjectUrl
from corank.core.published_folder import MANIFEST, FolderPublisher, PublishedFolder, new_version
from tests.support.object_store import ObjectStore


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    """A folder of some files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def read_files(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def publish(url: ObjectUrl, folder: Path) -> None:
    """Publish a folder as a bundle."""
    FolderPublisher.open(url, "bundle").publish(folder)


ONE = {"a.npy": b"a", "items/ids.npy": b"ids" * 1000, "empty": b""}
TWO = {"a.npy": b"A", "items/ids.npy": b"ids" * 1000, "new": b"new"}


def test_a_folder_is_published_and_read(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/shop/bundle")
    publish(url, make_folder(tmp_path / "one", ONE | {".lock": b"of a process"}))
    assert read_files(read_folder(url, "bundle").path) == ONE
    sent = set(object_store.names())
    publish(url, make_folder(tmp_path / "two", TWO))
    assert read_files(read_folder(url, "bundle").path) == TWO
    # unchanged files are not sent again, and files no longer named are removed
    kept = {key for key in object_store.names() if key.endswith("items/ids.npy")}
    assert kept == {key for key in sent if key.endswith("items/ids.npy")}
    assert len(object_store.names()) == len(TWO) + 1


def test_killed_before_the_switch_there_is_the_old(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    publisher, version = FolderPublisher.open(url, "bundle"), new_version()
    publisher.send(version, make_folder(tmp_path / "two", TWO), list(TWO))
    assert read_files(read_folder(url, "bundle").path) == ONE
    assert any(key.startswith(f"bundle/{version}/") for key in object_store.names())
    # the next publication removes the unused objects
    publish(url, make_folder(tmp_path / "three", ONE))
    assert not any(key.startswith(f"bundle/{version}/") for key in object_store.names())
    assert read_files(read_folder(url, "bundle").path) == ONE


def test_of_two_publishers_one_wins(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    folders = [make_folder(tmp_path / name, files) for name, files in (("one", ONE), ("two", TWO))]
    publishers = [FolderPublisher.open(url, "bundle") for _ in folders]
    failures: list[CorankError] = []

    def run(publisher: FolderPublisher, folder: Path) -> None:
        try:
            publisher.publish(folder)
        except CorankError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(publishers, folders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in failures] == [BusyError]
    assert str(url) in str(failures[0])
    assert read_files(read_folder(url, "bundle").path) in (ONE, TWO)


def test_a_reader_of_what_was_replaced_reads_the_new(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    before = PublishedFolder.open(url, "bundle")
    publish(url, make_folder(tmp_path / "two", TWO))
    assert not before.is_current()
    with pytest.raises(MissingObjectError, match=r"a\.npy"):
        ArtifactCache.of_environment().fetch(before)
    assert read_files(read_folder(url, "bundle").path) == TWO


def test_a_lost_reply_is_no_conflict(object_store: ObjectStore, tmp_path: Path) -> None:
    """The switch was made, its reply lost, and the repeated request is refused."""
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publisher = FolderPublisher.open(url, "bundle")
    version = new_version()
    files = publisher.send(version, make_folder(tmp_path / "one", ONE), list(ONE))
    publisher.commit(version, files)
    publisher.held = None  # as before the switch
    publisher.commit(version, files)
    assert read_files(read_folder(url, "bundle").path) == ONE


def test_an_altered_object_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    (key,) = [key for key in object_store.names() if key.endswith("ids.npy")]
    for content in (b"IDS" * 1000, b"ids" * 999, b"ids" * 1001):
        object_store.put(key, content)
        with pytest.raises(StorageError, match=r"items/ids\.npy: altered since it was published"):
            read_folder(url, "bundle")
    object_store.delete(key)
    with pytest.raises(MissingObjectError, match=r"items/ids\.npy: no such object"):
        read_folder(url, "bundle")
    assert not list((tmp_path / "cache").glob("[!.]*"))


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../x": {"version": "0" * 16, "bytes": 1, "sha256": "0" * 64}}},
        {"files": {"/etc/x": {"version": "0" * 16, "bytes": 1, "sha256": "0" * 64}}},
        {"files": {"x": {"version": "../" + "0" * 13, "bytes": 1, "sha256": "0" * 64}}},
        {"files": {"x": {"version": "0" * 16, "bytes": -1, "sha256": "0" * 64}}},
        {"files": []},
        {"format": 9},
    ],
    ids=str,
)
def test_a_hostile_manifest_is_refused(
    object_store: ObjectStore, tmp_path: Path, change: dict[str, object]
) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    manifest = json.loads(object_store.get(f"bundle/{MANIFEST}"))
    object_store.put(f"bundle/{MANIFEST}", json.dumps(manifest | change).encode())
    with pytest.raises(StorageError, match=str(url)):
        read_folder(url, "bundle")
    assert not list(tmp_path.rglob("x"))


def test_what_is_not_there_is_told(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    with pytest.raises(MissingObjectError, match=f"{url}: no bundle here"):
        read_folder(url, "bundle")
    lacking = ObjectUrl.parse("s3://no-such-bucket/bundle")
    with pytest.raises(StorageError, match="there is no bucket s3://no-such-bucket; make it"):
        read_folder(lacking, "bundle")
    with pytest.raises(StorageError, match="there is no bucket"):
        FolderPublisher.open(lacking, "bundle")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="credentials"):
        read_folder(url, "bundle")


def test_a_store_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"cannot be reached.*AWS_ENDPOINT_URL"):
        read_folder(ObjectUrl.parse(f"{object_store.url}/bundle"), "bundle")


def test_the_cache_stays_within_its_bound(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    parts = {f"{n}/part": bytes([n]) * 1000 for n in range(8)}
    publish(url, make_folder(tmp_path / "one", parts))
    cache, published = ArtifactCache(tmp_path / "cache", 3_000), PublishedFolder.open(url, "bundle")

    def fetch(n: int) -> bytes:
        return (cache.fetch(published, lambda name: name == f"{n}/part").path / f"{n}/part").read_bytes()

    for n in range(8):
        assert fetch(n) == parts[f"{n}/part"]
        assert sum(len(content) for content in read_files(cache.folder).values()) <= 3_000
    # the most recently used stay
    kept = {str(path.relative_to(cache.folder)).partition("/")[2] for path in cache.folder.glob("*/*/part")}
    assert kept == {"5/part", "6/part", "7/part"}
    with pytest.raises(StorageError, match=r"8,000 bytes are needed at once.*CORANK_CACHE_GIB"):
        cache.fetch(published)


def test_a_damaged_entry_is_fetched_again(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    path = read_folder(url, "bundle").path
    (path / "a.npy").unlink()
    assert read_files(read_folder(url, "bundle").path) == ONE


def test_a_file_is_one_object(object_store: ObjectStore) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/out/vectors.parquet")
    with write_file(url) as path:
        path.write_bytes(b"vectors")
    assert object_store.get("out/vectors.parquet") == b"vectors"
    with pytest.raises(ValueError, match="by the block"), write_file(url) as path:
        path.write_bytes(b"half")
        raise ValueError("by the block")
    assert object_store.get("out/vectors.parquet") == b"vectors"


def test_a_large_object_is_refused(object_store: ObjectStore) -> None:
    object_store.put("x/large", b"large" * 100)
    folder = ObjectFolder(ObjectUrl.parse(f"{object_store.url}/x"))
    with pytest.raises(StorageError, match="500 bytes; at most 499 are read"):
        folder.read("large", 499)
    assert folder.read("large", 500)[0] == b"large" * 100


PUBLISH = """
import sys
from pathlib import Path
from corank.core.published_folder import FolderPublisher
from corank.core.objects import ObjectUrl
FolderPublisher.open(ObjectUrl.parse(sys.argv[1]), "bundle").publish(Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_while_it_publishes_there_is_the_old_or_the_new(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/bundle")
    publish(url, make_folder(tmp_path / "one", ONE))
    many = {f"part{n:03d}": bytes([n]) * 50_000 for n in range(200)}
    new = make_folder(tmp_path / "many", many)
    for enough in (1, 40, 120):
        before = len(object_store.names())
        child = subprocess.Popen([sys.executable, "-c", PUBLISH, str(url), str(new)])
        while len(object_store.names()) < before + enough and child.poll() is None:
            time.sleep(0.005)
        child.kill()
        child.wait()
        assert read_files(read_folder(url, "bundle").path) in (ONE, many)
    publish(url, new)
    assert read_files(read_folder(url, "bundle").path) == many
    assert len(object_store.names()) == len(many) + 1
