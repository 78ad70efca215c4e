"""A folder that was published into object storage: a manifest that names its files, replaced in one request.

    URL/published.json          the manifest: name, size, SHA-256 and version of every file
    URL/<version>/<name>        the files; a version is a publication's own, 16 hex digits

Object storage renames nothing. The manifest is written last, on condition that it is still the one that the publisher
read: a reader sees the old folder or the new one, and of two publishers one wins. Files that did not change are not
sent again.
"""

import re
from collections.abc import Mapping
from typing import Self

import msgspec

from corank.core.errors import MissingObjectError, StorageError
from corank.core.storage.object_folder import ObjectFolder, Revision
from corank.core.storage.object_url import ObjectUrl
from corank.core.storage.untrusted_files import is_plain_name

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
