"""Parts of a published folder: fetched when first read, ahead, and again after they were evicted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from corank.core.artifact import measure_files, new_content
from corank.core.artifact_cache import ArtifactCache, RemoteParts
from corank.core.artifact_objects import Published, Publisher
from corank.core.errors import StorageError
from corank.core.objects import ObjectUrl
from corank.training.run_publisher import RunManifest
from tests.support.object_store import ObjectStore

SIZE = 1_000


def publish(url: ObjectUrl, folder: Path, parts: Sequence[int]) -> None:
    """Publish parts, each of SIZE times a byte."""
    for n, byte in enumerate(parts):
        (folder / "train" / str(n)).mkdir(parents=True, exist_ok=True)
        (folder / "train" / str(n) / "part").write_bytes(bytes([byte]) * SIZE)
    manifest = RunManifest(content=new_content(), files=measure_files(folder))
    Publisher.open(url, RunManifest).publish(folder, manifest)


def open_parts(url: ObjectUrl, cache: Path, parts: int, bound: int) -> RemoteParts[bytes]:
    """Open them, with a cache of `bound` bytes."""
    source = Published.open(url, RunManifest)
    names = [f"train/{n}" for n in range(parts)]
    return RemoteParts(
        source, ArtifactCache(cache, bound), names, lambda path: path.joinpath("part").read_bytes()
    )


def count_held(cache: Path) -> int:
    """Parts that lie in a cache."""
    return len(list(cache.glob("*/train/*/part")))


def test_parts_are_fetched_when_they_are_read(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/packed")
    publish(url, tmp_path / "made", range(6))
    parts = open_parts(url, tmp_path / "cache", 6, 4 * SIZE)
    assert len(parts) == 6 and count_held(tmp_path / "cache") == 0
    for _ in range(2):
        for n in range(6):
            assert parts[n] == bytes([n]) * SIZE
            assert 1 <= count_held(tmp_path / "cache") <= 4
    assert parts[-1] == parts[5] and list(parts[4:]) == [parts[4], parts[5]]
    with pytest.raises(IndexError):
        parts[6]


def test_published_anew_is_told(object_store: ObjectStore, tmp_path: Path) -> None:
    url = ObjectUrl.parse(f"{object_store.url}/packed")
    publish(url, tmp_path / "made", range(3))
    parts = open_parts(url, tmp_path / "cache", 3, 100 * SIZE)
    assert parts[0]
    publish(url, tmp_path / "made", (0, 7, 2))
    assert parts[0] and parts[2]  # opened before, and unchanged
    with pytest.raises(StorageError, match="was published again meanwhile; run again"):
        parts[1]
