"""The LMDB environment of a folder, which all stores of a process in that folder share, and LMDB's errors in words."""

import errno
import mmap
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar
from weakref import WeakValueDictionary

import lmdb

from corank.core.errors import StoreError

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Table = lmdb._Database
T = TypeVar("T")

HANDLES = 1024
"""Tables that a process may have open at once."""
STALE = (lmdb.DbsFullError, lmdb.MapResizedError, lmdb.BadDbiError, lmdb.PanicError)
"""Errors that opening the environment again cures."""


class Environment:
    """An environment, which LMDB lets a process open only once.

    LMDB lets one transaction of a process at a time open or drop tables, until its end: it holds `handles`. Reads open
    their table and close it again, so that a server does not run out of handles over many versions. Writes keep tables
    open, and hold `handles` only for a table that is new to them, so that reads never wait for a flush to disk.
    """

    def __init__(self, path: Path, size: int, marker: bytes, create: bool) -> None:
        """
        Args:
            path: a folder.
            size: of the memory map, in bytes.
            marker: the table that marks the folder as corank's.
            create: make the marker if the environment is empty.
        """
        self.path, self.marker, self.process = path, marker, os.getpid()
        self.handles, self.writing = Lock(), Lock()
        self._open(size, create)

    def _open(self, size: int, create: bool) -> None:
        self.size, self.tables = size, dict[bytes, Table]()
        pages = -(-size // mmap.PAGESIZE)
        self.env = lmdb.open(str(self.path), pages * mmap.PAGESIZE, max_dbs=HANDLES, create=False)
        try:
            # a process that was killed while it read would keep pages from reuse
            self.env.reader_check()
            new = create and self.env.stat()["entries"] == 0
            with self.env.begin(write=new) as txn:
                self.env.open_db(self.marker, txn=txn, create=new)
        except BaseException:
            self.env.close()
            raise

    def reopen(self, size: int) -> None:
        """Open the environment again, with a map of `size` bytes."""
        with self.writing, self.handles:
            self.env.close()
            self._open(size, create=False)

    def read(self, name: bytes | None, work: Callable[[Transaction, Table], T], missing: T) -> T:
        """Run `work` on a table, or on the list of tables if `name` is None; return `missing` if it does not exist."""
        with self.handles:
            txn = self.env.begin()
            try:
                table = self.env.open_db(name, txn=txn, create=False)
            except lmdb.NotFoundError:
                return missing
            else:
                return work(txn, table)
            finally:
                txn.abort()

    def write(self, names: set[bytes], work: Callable[[Transaction, Mapping[bytes, Table]], None]) -> None:
        """Run `work` on tables in one transaction, which is undone if `work` raises."""
        with self.writing:
            new = names - self.tables.keys()
            with self.handles if new else nullcontext(), self.env.begin(write=True) as txn:
                opened = {name: self.env.open_db(name, txn=txn) for name in new}
                work(txn, self.tables | opened)
            self.tables |= opened

    def drop(self, name: bytes) -> None:
        """Remove a table."""
        with self.writing, self.handles, self.env.begin(write=True) as txn:
            table = self.tables.pop(name) if name in self.tables else self.env.open_db(name, txn=txn)
            txn.drop(table)

    def run(self, address: str, failure: str, step: Callable[["Environment"], T]) -> T:
        """Run a step, once more if the environment was stale. Raises StoreError: address, `failure`, reason, remedy."""
        try:
            try:
                return step(self)
            except STALE:
                self.reopen(self.size)
                return step(self)
        except lmdb.MapFullError:
            gib = f"{round(self.size / 2**30, 3):g} GiB"
            advice = "open the store with a larger one, lmdb:PATH?gib=NUMBER"
            raise StoreError(f"{address}: {failure}: the map of {gib} is full; {advice}") from None
        except lmdb.BadValsizeError:
            limit = f"longer than LMDB's limit of {self.env.max_key_size()} bytes"
            raise StoreError(f"{address}: {failure}: a key or a table's name is empty or {limit}") from None
        except lmdb.Error as error:
            # LMDB reports a write that the disk takes in part as EIO
            advice = "; is its disk full?" if error.code in {errno.EIO, errno.ENOSPC} else ""
            raise StoreError(f"{address}: {failure}: {error}{advice}") from None


_OPEN: WeakValueDictionary[tuple[int, int] | None, Environment] = WeakValueDictionary()


def open_environment(url: str, path: Path, size: int, marker: bytes, create: bool) -> Environment:
    """Open the environment of a folder, or take the one that this process has open there; one thread at a time.

    Raises StoreError if there is no store and `create` is false, or the folder holds something else.
    """
    try:
        _prepare_folder(url, path, create)
        environment = _OPEN.get(_file_id(path)) or Environment(path, size, marker, create)
        _OPEN[_file_id(path)] = environment
        if environment.size < size:
            environment.reopen(size)
        return environment
    except lmdb.NotFoundError:
        raise StoreError(f"{url}: holds an LMDB environment without a store; name another folder") from None
    except lmdb.MemoryError:
        raise StoreError(f"{url}: the address space is too small; give less, lmdb:PATH?gib=NUMBER") from None
    except (lmdb.Error, OSError) as error:
        raise StoreError(f"{url}: cannot be opened: {error}") from None


def _file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode of the data file, which LMDB must not open twice, whatever path leads to it."""
    data = path / "data.mdb"
    if not data.exists():
        return None
    status = data.stat()
    return status.st_dev, status.st_ino


def _prepare_folder(url: str, path: Path, create: bool) -> None:
    """Make the folder, or raise StoreError where no store is or can be."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{url}: is a file; a store is a folder")
    if (path / "data.mdb").exists():
        return
    if not create:
        raise StoreError(f"{url}: there is no store at {path}; `corank publish` makes one")
    path.mkdir(parents=True, exist_ok=True)
    foreign = sorted(file.name for file in path.iterdir() if file.name not in {"data.mdb", "lock.mdb"})
    if foreign:
        raise StoreError(f"{url}: holds {foreign[0]}, which is not a store's; name an empty folder")
