"""The contract of an artifact, of its real kinds: bundles, packed data, checkpoints, and versions in stores."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch

from corank.bundle.bundle import Bundle, write_content
from corank.bundle.manifest import BundleManifest
from corank.core.artifact import MANIFEST, ArtifactWriter, Manifest, new_content, open_folder
from corank.core.errors import BundleError, CheckpointError, DataError, StoreError
from corank.data.packed.manifest import PackManifest
from corank.training.checkpoints.checkpoint import Checkpoint
from corank.training.checkpoints.checkpoint_files import load, save
from corank.training.checkpoints.manifest import CheckpointManifest
from corank_serve.store import fetch
from corank_serve.store.base import Store, open_store
from corank_serve.store.fetch import fetch_bundle
from corank_serve.store.live_version import StoreState
from corank_serve.store.publish import publish_bundle
from tests.support.artifact_conformance import (
    ArtifactConformance,
    ExclusiveConformance,
    FolderPlace,
    Job,
    Place,
)
from tests.support.kills import REQUEST
from tests.support.redis_server import redis_server
from tests.support.shared import derived
from tests.support.stores import Between


class BundlePlace(FolderPlace):
    """A bundle, whose contents are numbered by `items_seq`."""

    error = BundleError
    kind: ClassVar[type[Manifest]] = BundleManifest

    def __init__(self, root: Path, name: str = "bundle") -> None:
        super().__init__(root, name)
        self.source = derived().base / "bundle"  # once, and not in each process

    def put(self, writer: ArtifactWriter[Any], n: int) -> None:
        before = Bundle.open(self.source)
        manifest = before.manifest.model_copy(update={"items_seq": n})
        write_content(writer, manifest, lambda folder: _copy(before.folder, folder))

    def read(self) -> int:
        return Bundle.open(self.path).manifest.items_seq


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, dirs_exist_ok=True)


class TestBundle(ExclusiveConformance):
    """The contract, of bundles."""

    steps = 12

    @pytest.fixture
    def place(self, tmp_path: Path) -> BundlePlace:
        return BundlePlace(tmp_path)


class PackPlace(FolderPlace):
    """Packed data, whose contents are numbered by the time of the last candidate."""

    error = DataError
    kind: ClassVar[type[Manifest]] = PackManifest

    def __init__(self, root: Path, name: str = "packed") -> None:
        super().__init__(root, name)
        self.source = derived().packed.location

    def put(self, writer: ArtifactWriter[Any], n: int) -> None:
        assert isinstance(self.source, Path)
        before = open_folder(self.source, PackManifest)

        def fill(folder: Path) -> PackManifest:
            _copy(before.folder, folder)
            return before.manifest.model_copy(update={"last": n})

        writer.write(new_content(), fill)

    def read(self) -> int:
        return open_folder(self.path, PackManifest).manifest.last


class TestPack(ExclusiveConformance):
    """The contract, of packed data."""

    steps = 90

    @pytest.fixture
    def place(self, tmp_path: Path) -> PackPlace:
        return PackPlace(tmp_path)


class CheckpointPlace(FolderPlace):
    """A checkpoint, whose tensor has its number. A run's lock excludes others that write it."""

    error = CheckpointError
    kind: ClassVar[type[Manifest]] = CheckpointManifest

    def replace(self, n: int) -> None:
        save(self.path, Checkpoint({"weight": torch.full((1000,), n)}, {"epoch": n}))

    def read(self) -> int:
        checkpoint = load(self.path)
        n = int(checkpoint.facts["epoch"])
        assert (checkpoint.whole("weight") == n).all()
        return n

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        writer = ArtifactWriter.of(self.path, CheckpointManifest)
        yield lambda: (
            writer.commit(writer.begin(new_content()), CheckpointManifest(facts={}, tensors={})),
            None,
        )[1]


class TestCheckpoint(ExclusiveConformance):
    """The contract, of checkpoints of one process."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> CheckpointPlace:
        return CheckpointPlace(tmp_path)


class StorePlace(Place):
    """The live version of a store. A killed publication is continued by the next of the same version."""

    error = StoreError
    reads = fetch, "read_stored_manifest"

    def __init__(self, root: Path, url: Callable[[str], str], name: str = "store") -> None:
        self.root, self._url, self.name = root, url, name
        self.url, self.where = url(name), ""

    def fresh(self, name: str) -> Self:
        return type(self)(self.root, self._url, name)

    def job(self, n: int) -> Job:
        bundles = BundlePlace(self.root, f"bundle{n}")
        if not bundles.path.exists():
            bundles.write(n)
        return publish, self.url, bundles.path

    @contextmanager
    def _opened(self) -> Iterator[tuple[Store, str]]:
        with closing(open_store(self.url, create=True)) as store:
            self.where = store.address
            yield store, StoreState.read(store)[1].require_live(store)

    def read(self) -> int:
        with self._opened() as (store, version):
            return fetch_bundle(store, version, self.root / f"cache-{os.urandom(4).hex()}").manifest.items_seq

    def names(self) -> list[str]:
        with self._opened() as (store, version):
            keys = [key.decode() for pairs in store.scan(f"parts/{version}") for key, _ in pairs]
        return [key.removesuffix("/0") for key in keys if key.endswith("/0")]

    def load(self, name: str) -> bytes:
        with self._opened() as (store, version):
            (value,) = store.get(f"parts/{version}", [_key(name)])
            assert value is not None
            return value

    def store(self, name: str, content: bytes | None) -> None:
        with self._opened() as (store, version):
            table, head = f"parts/{version}", store.head()
            if content is None:
                assert store.swap(head, head or b"", {}, {table: [_key(name)]})
            else:
                store.put({table: [(_key(name), content)]})

    def leftovers(self) -> set[str]:
        return set()


def _key(name: str) -> bytes:
    return name.encode() if name == MANIFEST else f"{name}/0".encode()


def publish(url: str, bundle: Path) -> None:
    """Publish a bundle; each write counts as a change."""
    with closing(open_store(url, create=True)) as store:
        publish_bundle(bundle, Between(store, lambda number, entries: sys.audit(REQUEST, StoreError)))


class TestLmdb(ArtifactConformance):
    """The contract, of versions in LMDB; the version that a reader reads stays."""

    meanwhile = 1

    @pytest.fixture
    def place(self, tmp_path: Path) -> StorePlace:
        return StorePlace(tmp_path, partial(_lmdb, tmp_path))


def _lmdb(folder: Path, name: str) -> str:
    return f"lmdb:{folder / name}"


@pytest.mark.store
class TestRedis(ArtifactConformance):
    """The contract, of versions in Redis."""

    meanwhile = 1

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[StorePlace]:
        with redis_server(tmp_path) as server:
            yield StorePlace(tmp_path, partial(_emptied, server.url))


def _emptied(url: str, name: str) -> str:
    with closing(open_store(url)) as store:
        for table in store.tables():
            store.drop(table)
    return url
