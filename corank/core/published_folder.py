"""A folder that was published into object storage: a manifest that names its files, replaced in one request.

    URL/published.json          the manifest: name, size, SHA-256 and version of every file
    URL/<version>/<name>        the files; a version is a publication's own, 16 hex digits

Object storage renames nothing. The manifest is written last, on condition that it is still the one that the publisher
read: a reader sees the old folder or the new one, and of two publishers one wins. Files that did not change are not
sent again.

Publishing a folder into object storage: files first, the manifest last, then what it no longer names is removed.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from corank.core.errors import BusyError, MissingObjectError, StorageError
from corank.core.files import is_plain_name, list_files
from corank.core.objects import ObjectFolder, ObjectUrl, Revision

FORMAT = 1
MANIFEST = "published.json"
"""The manifest's name."""
MOST_MANIFEST_BYTES = 1 << 28
MOST_FILE_BYTES = 1 << 45
VERSION = re.compile(r"[0-9a-f]{16}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PublishedFile(msgspec.Struct, frozen=True):
    """A file of a published folder."""

    version: str
    """Of the publication that sent it."""
    bytes: int
    sha256: str


class FolderManifest(msgspec.Struct, frozen=True):
    """The contents of a published folder."""

    format: int
    what: str
    """Such as `bundle`."""
    version: str
    files: dict[str, PublishedFile]
    """By relative name."""


class PublishedFolder:
    """A published folder at one moment."""

    def __init__(self, folder: ObjectFolder, manifest: FolderManifest, revision: Revision) -> None:
        """
        Args:
            folder: where it lies.
            manifest: checked.
            revision: of the manifest.
        """
        self.folder, self.manifest, self.revision = folder, manifest, revision

    @classmethod
    def open(cls, url: ObjectUrl, what: str) -> Self:
        """Read the manifest of a folder.

        Args:
            url: of the folder.
            what: what it must hold, such as `bundle`.

        Raises:
            MissingObjectError: there is none.
            StorageError: it is damaged, holds something else, or the store cannot be read.
        """
        folder = ObjectFolder(url)
        try:
            content, revision = folder.read(MANIFEST, MOST_MANIFEST_BYTES)
        except MissingObjectError:
            raise MissingObjectError(
                f"{url}: no {what} here (there is no {MANIFEST}); check the URL"
            ) from None
        return cls(folder, read_folder_manifest(content, url, what), revision)

    @property
    def url(self) -> ObjectUrl:
        """Where it lies."""
        return self.folder.url

    @property
    def files(self) -> Mapping[str, PublishedFile]:
        """The files by relative name."""
        return self.manifest.files

    def is_current(self) -> bool:
        """Whether nothing was published there since. Raises StorageError."""
        try:
            return self.folder.describe(MANIFEST).revision == self.revision
        except MissingObjectError:
            return False


def read_folder_manifest(content: bytes, url: ObjectUrl, what: str) -> FolderManifest:
    """Read and check a manifest: nothing in it is trusted. Raises StorageError, which names the URL."""
    where = f"{url}/{MANIFEST}"
    try:
        manifest = msgspec.json.decode(content, type=FolderManifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StorageError(f"{where}: damaged ({str(error)[:200]}); publish again") from None
    if manifest.format != FORMAT:
        raise StorageError(f"{where}: format {manifest.format}; this version reads {FORMAT}; publish again")
    if manifest.what != what:
        raise StorageError(f"{url}: expected a {what}; found a {manifest.what[:40]!r}; name another URL")
    for name, file in manifest.files.items():
        sound = VERSION.fullmatch(file.version) and _SHA256.fullmatch(file.sha256)
        if not (sound and 0 <= file.bytes <= MOST_FILE_BYTES and is_relative_name(name)):
            raise StorageError(f"{where}: {name[:200]!r} is no sound entry; publish again")
    return manifest


def is_relative_name(name: str) -> bool:
    """Whether a name leads to a file below a folder: plain segments with `/` between them.

    Example:
        >>> is_relative_name("items/ids.npy"), is_relative_name("../ids.npy")
        (True, False)
    """
    return all(map(is_plain_name, name.split("/")))


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
