"""A cache of files of published artifacts on this machine's disk: bounded, shared by processes, least used first out.

    CACHE/<digest>-<bytes>/…    some files of an artifact, by their names; the digest is of names and contents

Files are fetched under other names, checked by size and SHA-256, and renamed. A folder stays while it is leased. On
Linux a file that is mapped stays readable after it was removed.

Parts of an artifact, such as shards, are fetched when first read, or ahead, and mapped from the cache.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar, overload

from corank.core.artifact import File, Manifest
from corank.core.errors import MissingObjectError, StorageError
from corank.core.files import PARTIAL, remove_abandoned, scratch_folder
from corank.core.locks import FolderLease, hold_lock, remove_unread
from corank.core.objects import ObjectUrl

CACHE, CACHE_GIB = "CORANK_CACHE", "CORANK_CACHE_GIB"
"""Variables of the environment: folder and size of the cache."""
DEFAULT_GIB = 32.0
TRANSFERS = 8
"""Files that are sent or fetched at once."""
_ENTRY = re.compile(r"[0-9a-f]{32}-([0-9]{1,18})")
_PARTIAL_ENTRY = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{32}-([0-9]{1,18})-[0-9a-f]{8}")


class Source(Protocol):
    """A published artifact, of which files are fetched."""

    @property
    def url(self) -> ObjectUrl:
        """Where it lies."""

    @property
    def manifest(self) -> Manifest:
        """Of its files."""

    def fetch(self, name: str, path: Path) -> None:
        """Fetch a file, and check it. Raises StorageError, OSError."""

    def is_current(self) -> bool:
        """Whether nothing was published there since."""


@dataclass(frozen=True)
class CachedFolder:
    """Files of an artifact on this machine; they stay as long as this object lives."""

    path: Path
    lease: FolderLease


@dataclass(frozen=True)
class ArtifactCache:
    """A folder of fetched files, of at most `bound` bytes.

    Example:
        cache = ArtifactCache.of_environment()
        cache.fetch(Published.open(ObjectUrl.parse("s3://shop/bundle"), BundleManifest)).path
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

    def fetch(self, source: Source, wanted: Callable[[str], bool] = lambda name: True) -> CachedFolder:
        """Fetch files of an artifact, unless they are here. Processes that want the same fetch them once.

        Args:
            source: the artifact.
            wanted: whether a file of a name is wanted; all are unless given.

        Raises:
            MissingObjectError: a file is no longer there; the folder was published anew, or is damaged.
            StorageError: a file was altered, is larger than the cache, or the store or the disk refuses.
        """
        files = {name: file for name, file in source.manifest.files.items() if wanted(name)}
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
            with hold_lock(self.folder / f".{path.name}.lock", remove=True):
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

    def keep(self, manifest: Manifest, folder: Path) -> None:
        """Take over the files of an artifact that was just published, for its next reader.

        It lies next to the folders of the cache, and is gone afterwards unless the cache has no room for it.
        """
        size = manifest.size
        path = self.folder / f"{_digest(manifest.files)}-{size}"
        with suppress(OSError, StorageError), hold_lock(self.folder / ".room.lock"):
            self._make_room(size)
            folder.rename(path)

    def _fetch(self, source: Source, files: Mapping[str, File], size: int, path: Path) -> None:
        """Fetch files under other names, and rename. Raises StorageError, OSError."""
        partial, damaged = (path.with_name(f"{PARTIAL}{path.name}-{os.urandom(4).hex()}") for _ in range(2))
        with hold_lock(self.folder / ".room.lock"):
            with suppress(FileNotFoundError):
                path.rename(damaged)  # who reads it keeps it
            remove_unread(damaged)
            remove_abandoned(self.folder, "*")
            self._make_room(size)
            partial.mkdir()
            lease = FolderLease(partial)
        try:
            with ThreadPoolExecutor(TRANSFERS) as pool:
                for name in files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                for _ in pool.map(lambda name: source.fetch(name, partial / name), files):
                    pass
            partial.rename(path)
        finally:
            del lease
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


def _digest(files: Mapping[str, File]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].bytes} {files[name].sha256}\n".encode())
    return digest.hexdigest()[:32]


def _open_entry(path: Path, files: Mapping[str, File]) -> CachedFolder | None:
    """Open a folder of the cache, and note its use; None if it is absent, or a file has not its size."""
    try:
        lease = FolderLease(path)
        if any((path / name).lstat().st_size != file.bytes for name, file in files.items()):
            return None
        os.utime(path)
    except OSError:
        return None
    return CachedFolder(path, lease)


@contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder next to the cache's, which is removed at the end; what killed processes left is removed first."""
    root = ArtifactCache.of_environment().folder
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = stack.enter_context(scratch_folder(root / "work"))
        except OSError as error:
            raise StorageError(f"{root}: cannot be written: {error}; name another by {CACHE}") from None
        yield folder


Part = TypeVar("Part")
OPEN, AHEAD = 0.5, 0.25
"""Shares of the cache: what parts that stay open may take, and parts that were fetched ahead."""


class RemoteParts(Sequence[Part], Generic[Part]):
    """Parts that are opened by number. The ones used last stay open, in memory that is mapped.

    What was evicted from the cache while it is open stays readable on Linux.
    """

    def __init__(
        self,
        source: Source,
        cache: ArtifactCache,
        folders: Sequence[str],
        open_part: Callable[[Path], Part],
    ) -> None:
        """
        Args:
            source: the artifact.
            cache: where parts are kept.
            folders: the parts' relative names.
            open_part: maps all files of a part.
        """
        self.source, self.cache, self.folders, self._open_part = source, cache, folders, open_part
        self._bytes = _measure(source, folders)
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._ahead: dict[int, Future[CachedFolder]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self.folders)

    @overload
    def __getitem__(self, n: int) -> Part: ...

    @overload
    def __getitem__(self, n: slice) -> Sequence[Part]: ...

    def __getitem__(self, n: int | slice) -> Part | Sequence[Part]:
        """Open parts. Raises StorageError, also if the folder was published anew since."""
        if isinstance(n, slice):
            return [self[one] for one in range(len(self))[n]]
        n = range(len(self))[n]
        with self._lock:
            if n not in self._open:
                self._open[n] = self._fetch_and_open(n)
            self._open.move_to_end(n)
            self._close_oldest()
            return self._open[n]

    def __iter__(self) -> Iterator[Part]:
        """Open one part after another, and fetch the next meanwhile."""
        for n in range(len(self)):
            if n + 1 < len(self):
                self.prefetch(n + 1)
            yield self[n]

    def prefetch(self, n: int) -> None:
        """Begin to fetch a part that will be read soon; nothing happens if it is at hand, or too much is ahead."""
        with self._lock:
            ahead = sum(self._bytes[one] for one in self._ahead) + self._bytes[n]
            if n in self._open or n in self._ahead or ahead > self.cache.bound * AHEAD:
                return
            self._pool = self._pool or ThreadPoolExecutor(1, "fetch ahead")
            self._ahead[n] = self._pool.submit(self._fetch, n)

    def _fetch(self, n: int) -> CachedFolder:
        begin = f"{self.folders[n]}/"
        return self.cache.fetch(self.source, lambda name: name.startswith(begin))

    def _fetch_and_open(self, n: int) -> Part:
        ahead = self._ahead.pop(n, None)
        try:
            cached = self._fetch(n) if ahead is None else ahead.result()
        except MissingObjectError:
            if self.source.is_current():
                raise
            raise StorageError(
                f"{self.source.url}: was published anew since this command began; run it again"
            ) from None
        return self._open_part(cached.path / self.folders[n])

    def _close_oldest(self) -> None:
        """Drop the parts that were not used for longest, but the last one; their readers keep them."""
        total = sum(self._bytes[n] for n in self._open)
        while len(self._open) > 1 and total > self.cache.bound * OPEN:
            n, _ = self._open.popitem(last=False)
            total -= self._bytes[n]


def _measure(source: Source, folders: Sequence[str]) -> list[int]:
    """Sum the bytes of each folder's files."""
    sizes: dict[str, int] = defaultdict(int)
    depth = {folder.count("/") + 1 for folder in folders}
    for name, file in source.manifest.files.items():
        for n in depth:
            sizes["/".join(name.split("/", n)[:n])] += file.bytes
    return [sizes[folder] for folder in folders]
