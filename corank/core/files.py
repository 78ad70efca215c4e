"""Atomic writes of files and folders."""

import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from corank.core.errors import CorankError, DataError

PARTIAL = ".partial-"
"""How the name of a file or folder begins that is not written to the end."""


def flush(file: BinaryIO) -> None:
    """Force what was written to an open file to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and force it to disk. Not atomic: for files of a folder that is written by `atomic_folder`."""
    with path.open("wb") as file:
        file.write(content)
        flush(file)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file so that readers find the old one or the new one, never a part.

    The block gets a path beside `path` to write to. When it ends, that file is forced to disk and renamed to `path`.
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
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Write a folder so that readers find the old one or the new one, never a part. See `atomic_file`.

    Args:
        path: the folder; its parents are made.
        replace: whether a folder that is not empty may be replaced.

    Raises:
        DataError: `path` is a file, or a folder that is not empty and `replace` is not set; nothing is written then.
        OSError: the folder cannot be written.
    """
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path}: exists and is not an empty folder; name another, or remove it")
    with _partial(path, Path.mkdir) as partial:
        yield partial
        for part in partial.rglob("*"):
            sync(part)
        sync(partial)
        old = _partial_name(path)
        if path.exists():
            path.rename(old)
        partial.rename(path)
        sync(path.parent)
        _remove(old)


@contextmanager
def _partial(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Make a file or folder beside `path`, locked; remove it at the end if it is still there.

    Those that nobody has locked are what killed processes left: they are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{PARTIAL}{glob.escape(path.name)}-*"):
        with suppress(OSError), _locked(left):
            _remove(left)
    partial = _partial_name(path)
    make(partial)
    try:
        with _locked(partial):
            yield partial
    finally:
        _remove(partial)


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
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; its folder is made. Raises CorankError if it cannot be written."""
    try:
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CorankError(f"{path}: cannot be written: {error}; name another place with --out") from None
