"""Artifacts by path or URL. What is read of a URL lies in a cache on this machine's disk.

The cache is bounded and shared by processes.

    CACHE/<digest>-<bytes>/…        some files of an artifact, by their names; the digest is of names and contents
    CACHE/part-<digest>-<bytes>/…   of one of its parts, such as a shard, which is mapped at once

Files are fetched under other names, checked by size and SHA-256, and renamed. What was used least lately leaves first;
artifacts that were opened within a day only after all others, as a process may yet open a file of them. On Linux a file
that is mapped stays readable after it was removed.

Parts of an artifact are fetched when first read, or ahead.
"""

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import msgspec

from corank.core.artifact import (
    MANIFEST,
    Artifact,
    File,
    Inspect,
    M,
    Manifest,
    Proofs,
    Wanted,
    open_folder,
    read_manifest,
)
from corank.core.artifact_objects import TRANSFERS, Published, Publisher, read_published
from corank.core.errors import MissingObjectError, StorageError
from corank.core.files import (
    PARTIAL,
    link_file,
    remove_abandoned,
    remove_folder,
    run_in_threads,
    scratch_folder,
)
from corank.core.locks import hold_lock
from corank.core.objects import Location, ObjectFolder

CACHE, CACHE_GIB = "CORANK_CACHE", "CORANK_CACHE_GIB"
"""Variables of the environment: folder and size of the cache."""
DEFAULT_GIB = 32.0
_ENTRY = re.compile(rf"({re.escape(PARTIAL)})?(part-)?[0-9a-f]{{32}}-([0-9]{{1,18}})(?(1)-[0-9a-f]{{8}})")
RECENT = 24 * 60 * 60
"""Seconds after it was opened in which a process may yet open further files of an artifact."""


@dataclass(frozen=True)
class ArtifactCache:
    """A folder of fetched files, of at most `bound` bytes.

    Example:
        cache = ArtifactCache.of_environment()
        cache.fetch(Published.open(ObjectUrl.parse("s3://shop/bundle"), BundleManifest)).folder
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
        self, source: Published[M], wanted: Wanted = lambda name: True, part: bool = False
    ) -> Artifact[M]:
        """Fetch files of an artifact, unless they are here. Processes that want the same fetch them once.

        Args:
            source: the artifact.
            wanted: whether a file of a name is wanted; all are unless given.
            part: whether the caller opens all of the files at once, and no process one of them later.

        Raises:
            MissingObjectError: a file is no longer there; the folder was published anew, or is damaged.
            StorageError: a file was altered, is larger than the cache, or the store or the disk refuses.
        """
        files = {name: file for name, file in source.manifest.files.items() if wanted(name)}
        size = sum(file.bytes for file in files.values())
        path = self.folder / f"{'part-' if part else ''}{_digest(files)}-{size}"
        if _is_whole(path, files):
            return Artifact(path, source.manifest)
        if size > self.bound:
            raise StorageError(
                f"{source.url}: {size:,} bytes are needed at once, and the cache {self.folder} has room for "
                f"{self.bound:,}; give it more by {CACHE_GIB}"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with hold_lock(self.folder / f".{path.name}.lock", remove=True):
                if not _is_whole(path, files):
                    self._fetch(source, files, size, path)
        except OSError as error:
            raise StorageError(
                f"{self.folder}: files cannot be kept there: {error}; free space, or name another by {CACHE}"
            ) from None
        return Artifact(path, source.manifest)

    def keep(self, manifest: Manifest, folder: Path) -> None:
        """Take over the files of an artifact that was just published, for its next reader.

        It lies next to the folders of the cache, and is gone afterwards unless the cache has no room for it.
        """
        size = manifest.size
        path = self.folder / f"{_digest(manifest.files)}-{size}"
        with suppress(OSError, StorageError), hold_lock(self.folder / ".room.lock"):
            self._make_room(size)
            folder.rename(path)

    def _fetch(self, source: Published[M], files: Mapping[str, File], size: int, path: Path) -> None:
        """Fetch files under other names, and rename. Raises StorageError, OSError."""
        with ExitStack() as stack:
            with hold_lock(self.folder / ".room.lock"):
                remove_abandoned(self.folder, "*")
                if path.exists():  # damaged
                    remove_folder(path)
                self._make_room(size)
                partial = stack.enter_context(scratch_folder(path))
            for name in files:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
            run_in_threads(lambda name: source.fetch(name, partial / name), files, TRANSFERS)
            partial.rename(path)

    def _make_room(self, needed: int) -> None:
        """Remove folders until there is room: those that were not used for longest, recent artifacts last."""
        total, entries = needed, list[tuple[bool, float, int, Path]]()
        for entry in self.folder.iterdir():
            if match := _ENTRY.fullmatch(entry.name):
                total += int(match[3])
                if not match[1]:
                    with suppress(OSError):
                        used = entry.stat().st_mtime
                        recent = not match[2] and time.time() - used < RECENT
                        entries.append((recent, used, int(match[3]), entry))
        for _, _, size, entry in sorted(entries):
            if total <= self.bound:
                return
            remove_folder(entry)
            total -= size
        if total > self.bound:
            raise StorageError(
                f"{self.folder}: other processes are fetching {total - needed:,} bytes, and the cache has room for "
                f"{self.bound:,}; run again later, or give it more by {CACHE_GIB}"
            )


def _digest(files: Mapping[str, File]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].bytes} {files[name].sha256}\n".encode())
    return digest.hexdigest()[:32]


def _is_whole(path: Path, files: Mapping[str, File]) -> bool:
    """Whether a folder of the cache has files, each of its size; its use is noted."""
    try:
        os.utime(path)
        return all((path / name).lstat().st_size == file.bytes for name, file in files.items())
    except OSError:
        return False


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
    return read_published(location, kind, ArtifactCache.of_environment().fetch, inspect)


def read_facts(location: Location, kind: type[M]) -> M:
    """Read the manifest of an artifact alone. Raises as `open_artifact`."""
    if isinstance(location, Path):
        return read_manifest(location, kind)
    return Published.open(location, kind).manifest


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
                    link_file(cached.folder / name, folder / local.content / name)
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


Part = TypeVar("Part")
OPEN, AHEAD = 0.5, 0.25
"""Shares of the cache: what parts that stay open may take, and parts that were fetched ahead."""


class LazyParts(Sequence[Part], Generic[Part]):
    """Parts that are opened by number, when they are read."""

    def __init__(self, count: int, open_part: Callable[[int], Part]) -> None:
        self._count, self._open_number = count, open_part

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, n: int) -> Part: ...

    @overload
    def __getitem__(self, n: slice) -> Sequence[Part]: ...

    def __getitem__(self, n: int | slice) -> Part | Sequence[Part]:
        """Open parts. Raises IndexError, and what opening one raises."""
        if isinstance(n, slice):
            return [self[one] for one in range(len(self))[n]]
        return self._open_number(range(len(self))[n])


class RemoteParts(LazyParts[Part]):
    """Parts in object storage. The ones used last stay open, in memory that is mapped.

    What was evicted from the cache while it is open stays readable on Linux. Opening one raises StorageError, also if
    the folder was published anew since.
    """

    def __init__(
        self,
        source: Published[Any],
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
        super().__init__(len(folders), self._get)
        self.source, self.cache, self.folders, self._open_part = source, cache, folders, open_part
        self._bytes = _measure(source, folders)
        self._open: OrderedDict[int, Part] = OrderedDict()
        self._ahead: dict[int, Future[Artifact[Any]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()

    def _get(self, n: int) -> Part:
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

    def _fetch(self, n: int) -> Artifact[Any]:
        begin = f"{self.folders[n]}/"
        return self.cache.fetch(self.source, lambda name: name.startswith(begin), part=True)

    def _fetch_and_open(self, n: int) -> Part:
        ahead = self._ahead.pop(n, None)
        try:
            cached = self._fetch(n) if ahead is None else ahead.result()
        except MissingObjectError:
            if self.source.is_current():
                raise
            raise StorageError(f"{self.source.url}: was published again meanwhile; run again") from None
        return self._open_part(cached.folder / self.folders[n])

    def _close_oldest(self) -> None:
        """Drop the parts that were not used for longest, but the last one; their readers keep them."""
        total = sum(self._bytes[n] for n in self._open)
        while len(self._open) > 1 and total > self.cache.bound * OPEN:
            n, _ = self._open.popitem(last=False)
            total -= self._bytes[n]


def _measure(source: Published[Any], folders: Sequence[str]) -> list[int]:
    """Sum the bytes of each folder's files."""
    sizes: dict[str, int] = defaultdict(int)
    depth = {folder.count("/") + 1 for folder in folders}
    for name, file in source.manifest.files.items():
        for n in depth:
            sizes["/".join(name.split("/", n)[:n])] += file.bytes
    return [sizes[folder] for folder in folders]
