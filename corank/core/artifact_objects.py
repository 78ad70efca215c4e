"""An artifact in object storage.

    URL/manifest.json          as on a disk, with the folder of every file: replaced in one request
    URL/<publication>/<name>   the files; a publication has a name of its own, as a content has

Object storage renames nothing. The manifest is written last, on condition that it is still the one that the publisher
read: of two publishers one wins. Files that did not change are not sent again. A reader gets files of the cache
(artifact_cache.py).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

import msgspec

from corank.core.artifact import MANIFEST, File, Inspect, M, is_content, new_content, parse_manifest
from corank.core.errors import BusyError, MissingObjectError, StorageError
from corank.core.files import run_in_threads
from corank.core.objects import ObjectFolder, ObjectUrl, Revision

TRANSFERS = 8
"""Files that are sent or fetched at once."""
T = TypeVar("T")


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
            raise MissingObjectError(f"{url}: no {name} here (no {MANIFEST}); check the URL") from None
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


def read_published(
    url: ObjectUrl, kind: type[M], read: Callable[[Published[M]], T], inspect: Inspect | None = None
) -> T:
    """Read what is published at a URL by a function, again if it was replaced meanwhile.

    Raises as `Published.open`, and what the function raises.
    """
    while True:
        published = Published.open(url, kind, inspect)
        try:
            return read(published)
        except MissingObjectError:
            if published.is_current():
                raise


@dataclass
class Publisher(Generic[M]):
    """Publishes into one URL, as long as nobody else does.

    Example:
        publisher = Publisher.open(ObjectUrl.parse("s3://shop/bundle"), BundleManifest)
        publisher.publish(artifact.folder, artifact.manifest)
    """

    url: ObjectUrl
    kind: type[M]
    before: Published[M] | None
    """What is published there now; None if nothing is."""

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

        sent = run_in_threads(send, manifest.files.items(), TRANSFERS)
        places = dict(zip(manifest.files, sent, strict=True))
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
