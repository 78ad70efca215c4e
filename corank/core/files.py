"""Atomic writes of files and folders: killed at any moment, there is the old one or the new one, never none.

A file that never changes, under one more name: no copy where the file system can do without.

Files of a folder that others may have written: plain names, no links, nothing but regular files, bounded sizes.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from corank.core.errors import CorankError, DataError

T = TypeVar("T")
R = TypeVar("R")

PARTIAL = ".partial-"
"""Prefix of the name of a file or folder that is not written to the end, or is replaced already."""
SYNCED_AT_ONCE = 8
"""Files that are forced to disk at once."""


def run_in_threads(function: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Call a function on every item, and return the results in order. After a call has failed, none begins."""
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(function, item) for item in items]
        try:
            for call in as_completed(calls):
                call.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [call.result() for call in calls]


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Force a folder and all that is in it to disk, several files at once: a file system commits them together."""
    run_in_threads(sync, folder.rglob("*"), SYNCED_AT_ONCE)
    sync(folder)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file so that readers find the old one or the new one, never a part.

    The block gets a path next to `path` to write to. When it ends, that file is forced to disk and renamed to `path`.
    When it fails, the file is removed and `path` is left as it was. What a killed process left is removed first.

    Args:
        path: the file; its folder is made.

    Raises:
        OSError: the file cannot be written.

    Example:
        with atomic_file(path) as partial:
            frame.write_parquet(partial)
    """
    with _partial(path, Path.touch) as partial:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Write a folder that is not there yet, whole or not at all. See `atomic_file`.

    All files are forced to disk at the end, once: what the block writes need not be. An empty folder may be there, also
    by a symbolic link.

    Args:
        path: the folder; its parents are made.

    Raises:
        DataError: `path` is a file, or a folder that is not empty; nothing is written then.
        OSError: the folder cannot be written.
    """
    real = path.resolve()
    if _is_taken(real):
        raise _taken(path)
    with _partial(real, Path.mkdir) as partial:
        yield partial
        sync_folder(partial)
        try:
            partial.rename(real)
        except OSError as error:
            raise _taken(path) if _is_taken(real) else error from None
        sync(real.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a folder next to `path` for files that it is made of; it is removed at the end. Raises OSError."""
    with _partial(path, Path.mkdir) as folder:
        yield folder


@contextmanager
def resumable_folder(path: Path, mark: str, keep: tuple[type[Exception], ...]) -> Iterator[Path]:
    """Make a folder next to `path` to work in, which the next call with the same mark finds again after a kill.

    It is removed when the block ends or raises, unless what it raises is of `keep` or is an interrupt. Those of other
    marks are removed first. The caller holds a lock.

    Args:
        path: what the folder is named after; its parents are made.
        mark: what the work depends on.
        keep: errors after which the work can continue.

    Raises OSError.
    """
    real = path.resolve()
    _make_folder(real.parent)
    folder = real.with_name(f"{PARTIAL}{real.name}-{mark}")
    remove_abandoned(real.parent, glob.escape(real.name), keep=folder)
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except Exception as error:
        if not isinstance(error, keep):
            _remove(retire_folder(folder))
        raise
    _remove(retire_folder(folder))


def retire_folder(folder: Path) -> Path:
    """Rename a folder of `resumable_folder`, so that no later call takes what is left of it. Returns where it is.

    A folder that is there no more is no error.
    """
    retired = folder.with_name(f"{folder.name.rpartition('-')[0]}-{os.urandom(4).hex()}")
    with suppress(FileNotFoundError):
        folder.rename(retired)
    return retired


def remove_folder(path: Path) -> None:
    """Remove a folder, in one step for readers; `remove_abandoned` removes what is left of a kill. Raises OSError."""
    retired = _partial_name(path)
    path.rename(retired)
    _remove(retired)


def _is_taken(path: Path) -> bool:
    """Whether there is anything at a path but an empty folder."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _taken(path: Path) -> DataError:
    return DataError(f"{path}: exists and is not an empty folder; name another, or remove it")


@contextmanager
def _partial(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or folder next to `path`, locked; remove it at the end if it is still there.

    Those that nobody has locked are what killed processes left: they are removed.
    """
    _make_folder(path.parent)
    remove_abandoned(path.parent, glob.escape(path.name))
    partial = _partial_name(path)
    make(partial)
    try:
        with ExitStack() as stack:
            with suppress(OSError):  # NFS does not lock folders: what killed processes leave stays there
                stack.enter_context(_locked(partial))
            yield partial
    finally:
        _remove(partial)


def make_private_folder(folder: Path) -> None:
    """Make a folder of files that only its owner may read, if it is missing. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, and force their entries to disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def remove_abandoned(folder: Path, names: str, keep: Path | None = None) -> None:
    """Remove what killed processes left next to files or folders of a folder; `names` is a glob pattern of these."""
    for left in folder.glob(f"{PARTIAL}{names}-*"):
        with suppress(OSError), _locked(left):
            if left != keep:
                _remove(retire_folder(left))  # half removed, it must not be taken for what it was


def _partial_name(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{path.name}-{os.urandom(4).hex()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder. Raises BlockingIOError if another process holds it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is made. Raises CorankError if it cannot be."""
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise CorankError(f"{path}: cannot be written: {error}; name another place") from None


CHECKSUM = 32
"""Bytes before the content of a sealed file."""


def write_sealed(path: Path, key: str, content: bytes | memoryview) -> None:
    """Write a copy of what can be made again: atomically, after the SHA-256 of its key and itself. Raises OSError.

    Args:
        path: the file; its folder is made.
        key: of what it is: a text that depends on all that the content depends on.
        content: its bytes.
    """
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(_seal(key, content))
        file.write(content)


def unseal(key: str, raw: bytes) -> memoryview | None:
    """The content of a file that `write_sealed` wrote under a key; None of another key, or if it is not as written."""
    content = memoryview(raw)[CHECKSUM:]
    return content if raw[:CHECKSUM] == _seal(key, content) else None


def _seal(key: str, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()


def link_file(source: Path, target: Path) -> None:
    """Give a file another name, or copy it where that is not possible; the folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


_PLAIN = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f\ud800-\udfff]{1,200}")
LONGEST_NAME = 255
"""Bytes of a file's name, at most, as file systems have it."""
DEEPEST = 64
"""Lists and mappings within each other, at most: what walks through them calls itself."""


def is_plain_name(name: object) -> bool:
    """Whether a name is that of one file or folder: no path, not hidden, printable, short.

    Example:
        >>> is_plain_name("ids.npy"), is_plain_name("../ids.npy")
        (True, False)
    """
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None and len(name.encode()) <= LONGEST_NAME


def is_relative_name(name: str) -> bool:
    """Whether a name leads to a file below a folder: plain segments with `/` between them.

    Example:
        >>> is_relative_name("items/ids.npy"), is_relative_name("../ids.npy")
        (True, False)
    """
    return all(map(is_plain_name, name.split("/")))


def open_regular_file(folder: Path, name: str) -> BufferedReader:
    """Open a file below a folder for reading.

    Args:
        folder: it may itself be a link.
        name: relative, with `/` between segments; no link is followed in any of them.

    Raises:
        OSError: a segment is absent, a link or no plain name, or the file is a device, a pipe or a folder.
    """
    *folders, last = name.split("/")
    if not all(map(is_plain_name, (*folders, last))):
        raise OSError(errno.EINVAL, "not a plain relative name")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            inner = _open_unlinked(part, os.O_DIRECTORY, handle)
            os.close(handle)
            handle = inner
        # a pipe would block without O_NONBLOCK, which regular files ignore
        descriptor = _open_unlinked(last, os.O_NONBLOCK, handle)
    finally:
        os.close(handle)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def _open_unlinked(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, "a link, or no folder") from None
        raise


def read_regular_file(folder: Path, name: str, most: int) -> bytes:
    """Read a file below a folder, as `open_regular_file` opens it. Raises OSError, also if it has over `most` bytes."""
    with open_regular_file(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes; at most {most:,} are read")
        return file.read(most)


def list_files(folder: Path, most: int) -> list[str]:
    """List all that lies below a folder and is no folder, by relative names; links are listed, not followed.

    Raises OSError if the folder cannot be read, or there are over `most`.
    """
    names: list[str] = []
    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                else:
                    names.append(name)
                if len(names) + len(pending) > most:
                    raise OSError(errno.EFBIG, f"over {most:,} files")
    return names


def parse_json(raw: bytes | str) -> Any:
    """Parse JSON. Raises ValueError, also for values nested deeper than DEEPEST."""
    try:
        value = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for part in level for inner in _inner_values(part)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _inner_values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
