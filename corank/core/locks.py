"""Locks of what one process at a time may write.

They are locks by flock(2), and end with the process that holds them, however it ends: what a killed process leaves is
a file, never a lock. A process that is forked while a lock is held does not share it. On NFS they hold between machines
if the server grants locks (NFSv4, or version 3 with lockd); a file system without locks refuses to be written to.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from corank.core.errors import BusyError
from corank.core.time import format_time, now_ms

NOTE = 1024
"""Bytes of a holder's note, at most."""
LOCK = ".lock"
"""The lock's file within a folder."""

NOTE_TRIES = 100
"""How often a holder's note is looked for, 10 ms apart: on a busy machine it follows a while after the lock."""

_held: set[int] = set()
"""Handles of the locks that this process holds."""


def _leave_locks() -> None:
    """Close a parent's locks in a forked child, which would keep them beyond the parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks)


class LockHolder(msgspec.Struct, frozen=True):
    """Who holds a lock. The lock's file holds it as JSON, for the message to others and for nothing else."""

    command: str
    pid: int
    host: str
    since: int
    """ms UTC"""

    def __str__(self) -> str:
        return f"corank {self.command} (process {self.pid} on {self.host}, since {format_time(self.since)})"

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read the note of a live holder; None if there is none, or it is of a dead process."""
        try:
            with file.open("rb") as opened:
                holder = msgspec.json.decode(opened.read(NOTE), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None
        # the note of another user may hold anything, and is shown on a terminal
        shown = (holder.command + holder.host).isprintable()
        sound = shown and 0 < holder.pid < 2**31 and 0 <= holder.since < 2**47
        return holder if sound and holder.is_alive() else None

    def is_alive(self) -> bool:
        """Whether the process runs. That of another machine is taken to run."""
        try:
            if self.host == socket.gethostname():
                os.kill(self.pid, 0)
        except PermissionError:  # of another user
            return True
        except ProcessLookupError:
            return False
        return True


class WriteLock:
    """The right to write a folder, which one process at a time has.

    The file of the lock lies within the folder. It is removed at the end, by its holder alone.

    Example:
        with WriteLock(Path("runs/shop"), "train"):
            ...
    """

    def __init__(self, folder: Path, command: str) -> None:
        """Take the lock.

        Args:
            folder: is made.
            command: of corank, which writes.

        Raises:
            BusyError: another process, or another part of this one, has the lock; the message names it.
            OSError: the file of the lock cannot be written, or its file system has no locks.
        """
        self.folder = folder
        self._made = not folder.is_dir()
        self._handle = handle = _lock_or_refuse(folder)
        _held.add(handle)
        holder = LockHolder(command, os.getpid(), socket.gethostname(), now_ms())
        with suppress(OSError):  # on a full disk, or in a file of another user
            os.ftruncate(handle, 0)
            os.write(handle, msgspec.json.encode(holder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle in _held:  # not in a forked child
            _held.remove(self._handle)
            with suppress(OSError):
                (self.folder / LOCK).unlink()
                if self._made:
                    self.folder.rmdir()  # unless something was written
            os.close(self._handle)


def _lock_or_refuse(folder: Path) -> int:
    """Lock a folder. Raises BusyError, which names the holder; OSError."""
    for _ in range(NOTE_TRIES):
        if (handle := _lock(folder / LOCK, fcntl.LOCK_NB)) is not None:
            return handle
        # without a note of a live process the holder has just begun, or was killed before it wrote one
        if (holder := LockHolder.read(folder / LOCK)) is not None:
            break
        time.sleep(0.01)
    name = holder or "another process"
    raise BusyError(f"{folder}: {name} is writing it; wait until it has ended, or end that process")


def _lock(file: Path, waiting: int = 0) -> int | None:
    """Open and lock a file, which is made; None if another has its lock and `waiting` is LOCK_NB. Raises OSError."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = _open(file)
        except FileNotFoundError:
            continue  # an earlier holder removed the folder, which was empty
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | waiting)
            # an earlier holder may have removed the file after it was opened here
            if _names(file, handle):
                return handle
        except BlockingIOError:
            if _names(file, handle):
                os.close(handle)
                return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _open(file: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(file, os.O_RDWR | flags, 0o666)
    except PermissionError:
        return os.open(file, os.O_RDONLY | os.O_NOFOLLOW)  # of another user, in a folder of both


def _names(path: Path, handle: int) -> bool:
    """Whether a path still leads to an open file or folder."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def hold_lock(file: Path, remove: bool = False) -> Iterator[None]:
    """Wait for a lock, which is made; `remove` its file at the end. A killed holder releases it. Raises OSError."""
    handle = _lock(file)
    assert handle is not None
    try:
        yield
    finally:
        if remove:
            file.unlink(missing_ok=True)
        os.close(handle)
