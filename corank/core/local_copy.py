"""Local paths for files and folders that may lie in object storage: readers get a copy, writers publish one.

A path of this machine is used as it is. Of a URL, a reader gets files of the cache, and a writer builds in a working
folder next to them that is published at the end, whole or not at all.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from corank.core.errors import MissingObjectError, StorageError
from corank.core.files import PARTIAL, remove_abandoned
from corank.core.folder_cache import CACHE, FolderCache
from corank.core.locks import FolderLease
from corank.core.objects import Location, ObjectFolder
from corank.core.published_folder import FolderPublisher, PublishedFolder

Wanted = Callable[[str], bool]
"""Relative name → whether the file is needed."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine; a copy stays as long as this object lives."""

    path: Path
    lease: FolderLease | None = None
    """None of a folder that is no copy."""


def _all(name: str) -> bool:
    return True


def read_folder(location: Location, what: str, wanted: Wanted = _all) -> LocalFolder:
    """Get a folder to read: as it is, or as a copy of one publication of a URL.

    Args:
        location: of the folder.
        what: what it holds, such as `bundle`.
        wanted: the files that are needed; all unless given.

    Raises StorageError.

    Example:
        read_folder(parse_location("s3://shop/bundle"), "bundle").path
    """
    if isinstance(location, Path):
        return LocalFolder(location)
    cache = FolderCache.of_environment()
    while True:
        published = PublishedFolder.open(location, what)
        try:
            cached = cache.fetch(published, wanted)
        except MissingObjectError:
            if published.is_current():
                raise
        else:
            return LocalFolder(cached.path, cached.lease)


@contextmanager
def write_folder(
    location: Location, what: str, wanted: Wanted = lambda name: False, keep: bool = False
) -> Iterator[Path]:
    """Get a folder to write into. Of a URL it is a working folder, which is published when the block ends.

    Args:
        location: of the folder.
        what: what it will hold, such as `bundle`.
        wanted: the files of what is published there that the block needs; none unless given.
        keep: whether the cache takes the files over, since this machine will read them all.

    Raises:
        BusyError: another process has published there since the block began; what it published is there.
        StorageError: the store refuses; what was there before is there.

    Example:
        with write_folder(parse_location("s3://shop/bundle"), "bundle") as folder:
            (folder / "items.npy").write_bytes(content)
    """
    if isinstance(location, Path):
        yield location
        return
    publisher, cache = FolderPublisher.open(location, what), FolderCache.of_environment()
    with working_folder() as working:
        folder = working / location.split()[1]
        if publisher.held is not None:
            cached = cache.fetch(publisher.held, wanted)
            shutil.copytree(cached.path, folder)
        else:
            folder.mkdir()
        yield folder
        published = publisher.publish(folder)
        if keep:
            cache.keep(published, folder)


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


@contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder next to the cache's, which is removed at the end; what killed processes left is removed first."""
    root = FolderCache.of_environment().folder
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        remove_abandoned(root, "work")
        folder = root / f"{PARTIAL}work-{os.urandom(4).hex()}"
        folder.mkdir()
    except OSError as error:
        raise StorageError(f"{root}: cannot be written: {error}; name another by {CACHE}") from None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # NFS does not lock folders
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
