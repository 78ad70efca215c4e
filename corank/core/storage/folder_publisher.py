"""Publishing a folder into object storage: files first, the manifest last, then what it no longer names is removed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from corank.core.errors import BusyError, MissingObjectError, StorageError
from corank.core.storage.object_folder import ObjectFolder, Revision
from corank.core.storage.object_url import ObjectUrl
from corank.core.storage.published_folder import (
    FORMAT,
    MANIFEST,
    VERSION,
    FolderManifest,
    PublishedFile,
    PublishedFolder,
    is_relative_name,
)
from corank.core.storage.untrusted_files import list_files

TRANSFERS = 8
"""Files that are sent or fetched at once."""
MOST_FILES = 1_000_000
CHUNK = 1 << 22


class FolderPublisher:
    """Publishes into one URL, as long as nobody else does.

    Example:
        publisher = FolderPublisher.open(ObjectUrl.parse("s3://shop/bundle"), "bundle")
        publisher.publish(Path("bundle"))
    """

    def __init__(self, folder: ObjectFolder, what: str, held: PublishedFolder | None) -> None:
        """
        Args:
            folder: where to publish.
            what: what is published, such as `bundle`.
            held: what is published there now; None if nothing is.
        """
        self.folder, self.what, self.held = folder, what, held

    @classmethod
    def open(cls, url: ObjectUrl, what: str) -> Self:
        """Read what is published at a URL: it alone will be replaced. Raises StorageError if it is something else."""
        published = None
        with suppress(MissingObjectError):
            published = PublishedFolder.open(url, what)
        return cls(ObjectFolder(url), what, published)

    def publish(self, folder: Path) -> PublishedFolder:
        """Replace what is published by the files of a folder; hidden ones are left out.

        Returns what is published now.

        Raises:
            BusyError: another process has published there meanwhile; what it published is there.
            StorageError: the store refuses; what was there before is there.
        """
        names = sorted(filter(is_relative_name, list_files(folder, MOST_FILES)))
        version = new_version()
        return self.commit(version, self.send(version, folder, names))

    def send(self, version: str, folder: Path, names: Iterable[str]) -> dict[str, PublishedFile]:
        """Send files of a folder that are not published yet. Nobody sees them before `commit`.

        Args:
            version: of this publication: `new_version()`.
            folder: of the files.
            names: relative ones.

        Returns what `commit` takes. Raises StorageError.
        """
        with ThreadPoolExecutor(TRANSFERS) as pool:
            sent = pool.map(lambda name: (name, self._send(version, folder / name, name)), names)
            return dict(sent)

    def _send(self, version: str, path: Path, name: str) -> PublishedFile:
        size, sha256 = path.stat().st_size, hash_file(path)
        known = self.held.files.get(name) if self.held else None
        if known is not None and (known.bytes, known.sha256) == (size, sha256):
            return known
        self.folder.upload(f"{version}/{name}", path)
        return PublishedFile(version, size, sha256)

    def commit(self, version: str, files: Mapping[str, PublishedFile]) -> PublishedFolder:
        """Switch to files that were sent, in one request, and remove what the new manifest does not name.

        Returns what is published now.

        Raises:
            BusyError: another process has published there since this publisher last did, or was opened.
            StorageError: the store refuses.
        """
        manifest = FolderManifest(FORMAT, self.what, version, dict(files))
        # what was sent before now, and is not named now, belongs to nobody: a publisher that began before this switch
        # will be refused, and one that begins after it sends later
        before = [entry.name for entry in self.folder.list()]
        self.held = published = PublishedFolder(self.folder, manifest, self._swap(manifest))
        named = {f"{file.version}/{name}" for name, file in files.items()}
        with suppress(StorageError):  # the next publication removes them
            self.folder.delete(
                [name for name in before if VERSION.fullmatch(name.partition("/")[0]) and name not in named]
            )
        return published

    def _swap(self, manifest: FolderManifest) -> Revision:
        before = self.held.revision if self.held else None
        try:
            return self.folder.swap(MANIFEST, msgspec.json.encode(manifest), before)
        except BusyError:
            # the reply to the first of several attempts may have been lost
            published = PublishedFolder.open(self.folder.url, self.what)
            if published.manifest.version != manifest.version:
                raise
            return published.revision


def new_version() -> str:
    """Draw the version of a publication."""
    return os.urandom(8).hex()


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
