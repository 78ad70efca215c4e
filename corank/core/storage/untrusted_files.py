"""Files of a folder that others may have written: plain names, no links, nothing but regular files, bounded sizes."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

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


def open_regular_file(folder: Path, name: str) -> BinaryIO:
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
