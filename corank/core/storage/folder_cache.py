"""A cache of published files on this machine's disk: bounded, shared by processes, the longest unused files go first.

    CACHE/<digest>-<bytes>/…    some files of a published folder, by their names; the digest is of names and contents

Files are fetched under other names, checked by size and SHA-256, and renamed. A folder stays while it is leased. On
Linux a file that is mapped stays readable after it was removed.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corank.core.errors import StorageError
from corank.core.files import PARTIAL, remove_abandoned
from corank.core.locks import FolderLease, remove_unread
from corank.core.storage.folder_publisher import TRANSFERS
from corank.core.storage.published_folder import PublishedFile, PublishedFolder

CACHE, CACHE_GIB = "CORANK_CACHE", "CORANK_CACHE_GIB"
"""Variables of the environment: folder and size of the cache."""
DEFAULT_GIB = 32.0
_ENTRY = re.compile(r"[0-9a-f]{32}-([0-9]{1,18})")
_PARTIAL_ENTRY = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{32}-([0-9]{1,18})-[0-9a-f]{8}")


@dataclass(frozen=True)
class CachedFolder:
    """Files of a published folder on this machine; they stay as long as this object lives."""

    path: Path
    lease: FolderLease


@dataclass(frozen=True)
class FolderCache:
    """A folder of fetched files, of at most `bound` bytes.

    Example:
        cache = FolderCache.of_environment()
        cache.fetch(PublishedFolder.open(ObjectUrl.parse("s3://shop/bundle"), "bundle")).path
    """

    folder: Path
    bound: int

    @classmethod
    def of_environment(cls) -> Self:
        """The cache that CORANK_CACHE and CORANK_CACHE_GIB describe. Raises StorageError for a size that is none."""
        text = os.environ.get(CACHE_GIB, "")
        try:
            gib = float(text or DEFAULT_GIB)
            bound = int(gib * 2**30)
        except (ValueError, OverflowError):
            bound = 0
        if bound <= 0:
            raise StorageError(f"{CACHE_GIB}: expected a number of GiB over 0; received {text[:60]!r}")
        folder = os.environ.get(CACHE)
        return cls(Path(folder) if folder else Path.home() / ".cache" / "corank" / "objects", bound)

    def fetch(
        self, source: PublishedFolder, wanted: Callable[[str], bool] = lambda name: True
    ) -> CachedFolder:
        """Fetch files of a published folder, unless they are here. Processes that want the same fetch them once.

        Args:
            source: the folder.
            wanted: whether a file of a name is wanted; all are unless given.

        Raises:
            MissingObjectError: a file is no longer there; the folder was published anew, or is damaged.
            StorageError: a file was altered, is larger than the cache, or the store or the disk refuses.
        """
        files = {name: file for name, file in source.files.items() if wanted(name)}
        size = sum(file.bytes for file in files.values())
        path = self.folder / f"{_digest(files)}-{size}"
        if (cached := _open_entry(path, files)) is not None:
            return cached
        if size > self.bound:
            raise StorageError(
                f"{source.url}: {size:,} bytes are needed at once, and the cache {self.folder} has room for "
                f"{self.bound:,}; give it more by {CACHE_GIB}"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(self.folder / f".{path.name}.lock", remove=True):
                if (cached := _open_entry(path, files)) is None:
                    self._fetch(source, files, size, path)
                    cached = _open_entry(path, files)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: files cannot be kept there: {error}; free space, or name another by {CACHE}"
            ) from None
        if cached is None:
            raise StorageError(f"{path}: was removed by another program; run the command again")
        return cached

    def keep(self, source: PublishedFolder, folder: Path) -> None:
        """Take over a folder that was just published, for its next reader.

        It lies next to the folders of the cache, and is gone afterwards unless the cache has no room for it.
        """
        size = sum(file.bytes for file in source.files.values())
        path = self.folder / f"{_digest(source.files)}-{size}"
        with suppress(OSError, StorageError), _locked(self.folder / ".room.lock"):
            self._make_room(size)
            folder.rename(path)

    def _fetch(
        self, source: PublishedFolder, files: Mapping[str, PublishedFile], size: int, path: Path
    ) -> None:
        """Fetch files under other names, and rename. Raises StorageError, OSError."""
        partial = path.with_name(f"{PARTIAL}{path.name}-{os.urandom(4).hex()}")
        with _locked(self.folder / ".room.lock"):
            remove_unread(path)  # damaged
            remove_abandoned(self.folder, "*")
            self._make_room(size)
            partial.mkdir()
            handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # NFS does not lock folders
                fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            with ThreadPoolExecutor(TRANSFERS) as pool:
                for name in files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                for _ in pool.map(lambda name: _fetch_file(source, name, partial / name), files):
                    pass
            partial.rename(path)
        finally:
            os.close(handle)
            remove_unread(partial)

    def _make_room(self, needed: int) -> None:
        """Remove the folders that were not used for longest, until there is room; those with a lease stay."""
        sizes = {}
        for entry in self.folder.iterdir():
            match = _ENTRY.fullmatch(entry.name) or _PARTIAL_ENTRY.fullmatch(entry.name)
            if match:
                with suppress(OSError):
                    sizes[entry] = int(match[1]), entry.stat().st_mtime_ns
        total = sum(size for size, _ in sizes.values())
        for entry in sorted(sizes, key=lambda entry: sizes[entry][1]):
            if total + needed <= self.bound:
                return
            if _ENTRY.fullmatch(entry.name):
                remove_unread(entry)
                total -= 0 if entry.exists() else sizes[entry][0]
        if total + needed > self.bound:
            raise StorageError(
                f"{self.folder}: {needed:,} bytes are needed beside {total:,} that are in use, and the cache has "
                f"room for {self.bound:,}; give it more by {CACHE_GIB}"
            )


def _digest(files: Mapping[str, PublishedFile]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].bytes} {files[name].sha256}\n".encode())
    return digest.hexdigest()[:32]


def _open_entry(path: Path, files: Mapping[str, PublishedFile]) -> CachedFolder | None:
    """Open a folder of the cache, and note its use; None if it is absent, or a file has not its size."""
    try:
        lease = FolderLease(path)
        if any((path / name).lstat().st_size != file.bytes for name, file in files.items()):
            return None
        os.utime(path)
    except OSError:
        return None
    return CachedFolder(path, lease)


def _fetch_file(source: PublishedFolder, name: str, path: Path) -> None:
    """Fetch a file and check it. Raises StorageError, OSError."""
    file = source.files[name]
    with path.open("xb") as out:
        sha256 = source.folder.download(f"{file.version}/{name}", out, file.bytes)
        size = out.tell()
    if (size, sha256) != (file.bytes, file.sha256):
        reason = "its checksum differs" if size == file.bytes else f"not {file.bytes:,} bytes"
        raise StorageError(
            f"{source.url}/{file.version}/{name}: altered since it was published ({reason}); publish again"
        )


@contextmanager
def _locked(file: Path, remove: bool = False) -> Iterator[None]:
    """Hold a lock that one process at a time can; the file may be removed at the end. Raises OSError."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), file.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # an earlier holder removed the file after it was opened here
    try:
        yield
    finally:
        if remove:
            file.unlink(missing_ok=True)
        os.close(handle)
