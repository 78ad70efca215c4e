"""An artifact in object storage, and the one that a path or a URL names.

    URL/manifest.json          as on a disk, with the folder of every file: replaced in one request
    URL/<publication>/<name>   the files; a publication has a name of its own, as a content has

Object storage renames nothing. The manifest is written last, on condition that it is still the one that the publisher
read: of two publishers one wins. Files that did not change are not sent again. A reader gets files of the cache.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self

import msgspec

from corank.core.artifact import (
    MANIFEST,
    Artifact,
    File,
    Inspect,
    M,
    Proofs,
    is_content,
    new_content,
    open_folder,
    parse_manifest,
    read_manifest,
)
from corank.core.artifact_cache import TRANSFERS, ArtifactCache, working_folder
from corank.core.errors import BusyError, MissingObjectError, StorageError
from corank.core.files import link_file
from corank.core.objects import Location, ObjectFolder, ObjectUrl, Revision


@dataclass(frozen=True)
class Published(Generic[M]):
    """An artifact in object storage at one moment."""

    folder: ObjectFolder
    manifest: M
    revision: Revision
    """Of the manifest."""

    @classmethod
    def open(cls, url: ObjectUrl, kind: type[M], inspect: Inspect | None = None) -> Self:
        """Read the manifest of a URL.

        Raises MissingObjectError if there is none; StorageError if it is damaged, of something else, or the store
        cannot be read; what `inspect` raises.
        """
        folder, name = ObjectFolder(url), kind.kind_name()
        try:
            raw, revision = folder.read(MANIFEST, kind.most_bytes)
        except MissingObjectError:
            raise MissingObjectError(
                f"{url}: no {name} here (there is no {MANIFEST}); check the URL"
            ) from None
        try:
            manifest = parse_manifest(raw, kind, f"{url}/{MANIFEST}", inspect)
        except kind.error as error:
            raise StorageError(str(error)) from None
        if manifest.places.keys() != manifest.files.keys() or not all(
            map(is_content, manifest.places.values())
        ):
            raise StorageError(f"{url}/{MANIFEST}: places: expected one of each file; publish again")
        return cls(folder, manifest, revision)

    @property
    def url(self) -> ObjectUrl:
        """Where it lies."""
        return self.folder.url

    def is_current(self) -> bool:
        """Whether nothing was published there since. Raises StorageError."""
        try:
            return self.folder.describe(MANIFEST).revision == self.revision
        except MissingObjectError:
            return False

    def fetch(self, name: str, path: Path) -> None:
        """Fetch a file, and check it. Raises StorageError, OSError."""
        file, key = self.manifest.files[name], f"{self.manifest.places[name]}/{name}"
        with path.open("xb") as out:
            sha256 = self.folder.download(key, out, file.bytes)
            size = out.tell()
        if (size, sha256) != (file.bytes, file.sha256):
            reason = "its checksum differs" if size == file.bytes else f"not {file.bytes:,} bytes"
            raise StorageError(f"{self.url}/{key}: altered since it was published ({reason}); publish again")


class Publisher(Generic[M]):
    """Publishes into one URL, as long as nobody else does.

    Example:
        publisher = Publisher.open(ObjectUrl.parse("s3://shop/bundle"), BundleManifest)
        publisher.publish(artifact.folder, artifact.manifest)
    """

    def __init__(self, url: ObjectUrl, kind: type[M], before: Published[M] | None) -> None:
        """
        Args:
            url: where to publish.
            kind: of artifact.
            before: what is published there now; None if nothing is.
        """
        self.url, self.kind, self.before = url, kind, before

    @classmethod
    def open(cls, url: ObjectUrl, kind: type[M]) -> Self:
        """Read what is published at a URL: it alone will be replaced. Raises StorageError if it is something else."""
        published = None
        with suppress(MissingObjectError):
            published = Published.open(url, kind)
        return cls(url, kind, published)

    def publish(self, folder: Path, manifest: M) -> Published[M]:
        """Replace what is published: send the files that are not there, switch the manifest, remove what it leaves out.

        Args:
            folder: of the files.
            manifest: of them.

        Returns what is published now.

        Raises:
            BusyError: another process has published there since this publisher last did, or was opened; what it
                published is there.
            StorageError: the store refuses; what was there before is there.
        """
        objects, publication = ObjectFolder(self.url), new_content()

        def send(item: tuple[str, File]) -> str:
            name, file = item
            if self.before is not None and self.before.manifest.files.get(name) == file:
                return self.before.manifest.places[name]
            objects.upload(f"{publication}/{name}", folder / name)
            return publication

        with ThreadPoolExecutor(TRANSFERS) as pool:
            places = dict(zip(manifest.files, pool.map(send, manifest.files.items()), strict=True))
        whole = manifest.model_copy(update={"places": places})
        # what was sent before now, and is not named now, belongs to nobody: a publisher that began before this switch
        # will be refused, and one that begins after it sends later
        earlier = [entry.name for entry in objects.list()]
        self.before = published = Published(objects, whole, self._switch(objects, whole))
        named = {f"{place}/{name}" for name, place in places.items()}
        with suppress(StorageError):  # the next publication removes them
            objects.delete([n for n in earlier if is_content(n.partition("/")[0]) and n not in named])
        return published

    def _switch(self, objects: ObjectFolder, manifest: M) -> Revision:
        content = msgspec.json.encode(manifest.sealed())
        try:
            parse_manifest(content, self.kind, f"{self.url}/{MANIFEST}")  # a reader can
        except self.kind.error as error:
            raise StorageError(str(error)) from None
        try:
            return objects.swap(MANIFEST, content, self.before.revision if self.before else None)
        except BusyError:
            # the reply to the first of several attempts may have been lost
            published = Published.open(self.url, self.kind)
            if published.manifest != manifest.model_copy(update={"digest": published.manifest.digest}):
                raise
            return published.revision


def open_artifact(
    location: Location,
    kind: type[M],
    inspect: Inspect | None = None,
    proofs: Proofs | None = None,
) -> Artifact[M]:
    """Open an artifact: in its folder, or the copy of one publication of its URL, which is fetched first.

    Args:
        location: the folder, or the URL.
        kind: what it must be.
        inspect: takes the JSON value of the manifest before it is read.
        proofs: as of `open_folder`.

    Raises the kind's error, StorageError, and what `inspect` raises.
    """
    if isinstance(location, Path):
        return open_folder(location, kind, inspect, proofs=proofs)
    cache = ArtifactCache.of_environment()
    while True:
        published = Published.open(location, kind, inspect)
        try:
            cached = cache.fetch(published)
        except MissingObjectError:
            if published.is_current():
                raise
        else:
            return Artifact(cached.path, published.manifest, (cached.lease,))


def read_facts(location: Location, kind: type[M], inspect: Inspect | None = None) -> M:
    """Read the manifest of an artifact alone. Raises as `open_artifact`."""
    if isinstance(location, Path):
        return read_manifest(location, kind, inspect)
    return Published.open(location, kind, inspect).manifest


@contextmanager
def writable_copy(location: Location, kind: type[M], reads: bool) -> Iterator[Path]:
    """Get the folder of an artifact to replace. Of a URL it is a working folder, which is published at the end.

    Args:
        location: of the artifact.
        kind: of it.
        reads: whether the block reads the files of the present one; otherwise there is its manifest alone.

    Raises:
        BusyError: another process has published there since the block began; what it published is there.
        StorageError: the store refuses; what was there before is there.
    """
    if isinstance(location, Path):
        yield location
        return
    publisher, cache = Publisher.open(location, kind), ArtifactCache.of_environment()
    with working_folder() as working:
        folder = working / location.split()[1]
        folder.mkdir()
        if (before := publisher.before) is not None:
            local = before.manifest.model_copy(update={"places": {}})
            (folder / MANIFEST).write_bytes(msgspec.json.encode(local.plain()))
            if reads:
                cached = cache.fetch(before)
                for name in local.files:
                    link_file(cached.path / name, folder / local.content / name)
        yield folder
        artifact = open_folder(folder, kind, checksums=False)
        published = publisher.publish(artifact.folder, artifact.manifest)
        cache.keep(published.manifest, artifact.folder)


@contextmanager
def write_file(location: Location) -> Iterator[Path]:
    """Get a file to write. Of a URL it is a working file, which is sent as one object when the block ends.

    Raises StorageError; what was there before is there.

    Example:
        with write_file(parse_location("s3://shop/vectors.parquet")) as path:
            frame.write_parquet(path)
    """
    if isinstance(location, Path):
        yield location
        return
    folder, name = location.split()
    with working_folder() as working:
        yield working / name
        ObjectFolder(folder).upload(name, working / name)
