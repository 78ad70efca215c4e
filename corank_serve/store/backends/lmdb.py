"""A store in an LMDB environment: a folder on this machine, which many processes read and write at once.

A table is a named database; the head has one of its own, which also marks the folder as corank's.

LMDB maps the file into memory and trusts it: damage may end the process that reads it, by SIGBUS or SIGSEGV. So the
file's head and length are checked whenever it is opened, and every write leaves it as long as its last page tells.
"""

import errno
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar
from weakref import WeakValueDictionary

import lmdb

from corank.core.errors import StoreError
from corank_serve.store.base import STORES, Entries, Pairs

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Table = lmdb._Database
T = TypeVar("T")
Batch = list[tuple[bytes, bytes]]

HEAD = b"head"
GIB = 1024
"""Default size of the memory map: it takes address space only, the file grows with its content."""
BATCH = 1000
"""Pairs of a batch of a scan."""
_OPENING = Lock()
"""Held while an environment is opened, or let go of: the last store to let go closes it."""
HANDLES = 1024
"""Tables that a process may have open at once."""
STALE = (lmdb.DbsFullError, lmdb.MapResizedError, lmdb.BadDbiError, lmdb.PanicError)
"""Errors that opening the environment again cures."""
META = struct.Struct("=10xH4xII16xI92xQQ")
"""A meta page's flags; magic and version; size of a page; numbers of the last page and of the transaction."""
META_FLAG, MAGIC, PAGES = 0x08, (0xBEEFC0DE, 1), [2**n for n in range(9, 17)]


def find_damage(data: Path) -> str:
    """Return what is wrong with the head or the length of an environment's file; "" if nothing is. Raises OSError."""
    with data.open("rb") as file:
        head = file.read(META.size)
        page = META.unpack(head)[3] if len(head) == META.size else 0
        file.seek(page)
        heads = [head, file.read(META.size)]
        length = os.fstat(file.fileno()).st_size
    if page not in PAGES or length < 2 * page:
        return "its head is damaged, or not LMDB's"
    metas = [META.unpack(one) for one in heads]
    if any((meta[0] & META_FLAG, *meta[1:4]) != (META_FLAG, *MAGIC, page) for meta in metas):
        return "its head is damaged, or of another release of LMDB"
    needed = (max(last for *_, last, _ in metas) + 1) * page
    return f"it has {length:,} bytes, and its pages take {needed:,}" if length < needed else ""


class Environment:
    """An environment, which LMDB lets a process open only once.

    LMDB lets one transaction of a process at a time open or drop tables, until its end: it holds `handles`. Reads open
    their table and close it again, so that a server does not run out of handles over many versions. Writes keep tables
    open, and hold `handles` only for a table that is new to them, so that reads never wait for a flush to disk.
    """

    def __init__(self, path: Path, size: int, create: bool) -> None:
        """
        Args:
            path: a folder.
            size: of the memory map, in bytes.
            create: make the table of the head, which marks the folder, if the environment is empty.
        """
        self.path, self.process = path, os.getpid()
        self.handles, self.writing = Lock(), Lock()
        self._open(size, create)

    def _open(self, size: int, create: bool) -> None:
        self.size, self.tables = size, dict[bytes, Table]()
        data = self.path / "data.mdb"
        # an empty file is one that another process makes right now
        if data.exists() and (data.stat().st_size or not create) and (damage := find_damage(data)):
            raise StoreError(
                f"lmdb:{self.path}: cannot be opened: {damage}; restore a backup, or publish into a new store"
            )
        pages = -(-size // mmap.PAGESIZE)
        self.env = lmdb.open(str(self.path), pages * mmap.PAGESIZE, max_dbs=HANDLES, create=False)
        try:
            # a process that was killed while it read would keep pages from reuse
            self.env.reader_check()
            new = create and self.env.stat()["entries"] == 0
            with self.env.begin(write=new) as txn:
                self.env.open_db(HEAD, txn=txn, create=new)
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
            self._lengthen()

    def drop(self, name: bytes) -> None:
        """Remove a table."""
        with self.writing:
            with self.handles, self.env.begin(write=True) as txn:
                table = self.tables.pop(name) if name in self.tables else self.env.open_db(name, txn=txn)
                txn.drop(table)
            self._lengthen()

    def _lengthen(self) -> None:
        """Make the file as long as its last page tells: LMDB does not write pages that were never used."""
        data, page = self.path / "data.mdb", self.env.stat()["psize"]
        with suppress(OSError):  # of a folder that was removed since
            if data.stat().st_size < (self.env.info()["last_pgno"] + 1) * page:
                with self.env.begin(write=True):  # nobody else writes meanwhile
                    os.truncate(data, max(data.stat().st_size, (self.env.info()["last_pgno"] + 1) * page))

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


def open_environment(url: str, path: Path, size: int, create: bool) -> Environment:
    """Open the environment of a folder, or take the one that this process has open there; one thread at a time.

    Raises StoreError if there is no store and `create` is false, or the folder holds something else.
    """
    try:
        _prepare_folder(url, path, create)
        environment = _OPEN.get(_file_id(path)) or Environment(path, size, create)
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


@STORES.register("lmdb")
class LMDBStore:
    """The store `lmdb:PATH[?gib=NUMBER]`; its commits are durable.

    Open it after a fork, not before: LMDB cannot be used in a forked process. Each batch of a scan is a snapshot of
    its own. A single snapshot would be consistent, but while it is held no writer can reuse a freed page.
    """

    url_form = "lmdb:PATH"

    def __init__(self, url: str, create: bool) -> None:
        self.address = url
        match = re.fullmatch(r"lmdb:([^?]+)(?:\?gib=(?=[0.]*[1-9])(\d{1,5}(?:\.\d+)?))?", url)
        if not match:
            raise StoreError(f"expected lmdb:PATH or lmdb:PATH?gib=NUMBER; received {url!r}")
        path, size = Path(match[1]).absolute(), int(float(match[2] or GIB) * 2**30)
        with _OPENING:
            self._environment: Environment | None = open_environment(url, path, size, create)

    def head(self) -> bytes | None:
        """As `Store.head`."""
        return self._read(HEAD, lambda txn, table: txn.get(HEAD, db=table), None)

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """As `Store.swap`."""

        def work(txn: Transaction, tables: Mapping[bytes, Table]) -> None:
            if txn.get(HEAD, db=tables[HEAD]) != before:
                raise _HeadChangedError
            for name, keys in gone.items():
                for key in keys:
                    txn.delete(key, db=tables[_database(name)])
            _write(txn, tables, entries)
            txn.put(HEAD, after, db=tables[HEAD])

        names = {HEAD, *map(_database, entries), *map(_database, gone)}
        try:
            self._run("nothing was written", lambda environment: environment.write(names, work))
        except _HeadChangedError:
            return False
        return True

    def put(self, entries: Entries) -> None:
        """As `Store.put`."""
        names, work = {*map(_database, entries)}, partial(_write, entries=entries)
        self._run("nothing was written", lambda environment: environment.write(names, work))

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get`."""

        def work(txn: Transaction, table: Table) -> list[bytes | None]:
            return [txn.get(key, db=table) for key in keys]

        return self._read(_database(table), work, [None] * len(keys))

    def scan(self, table: str) -> Iterator[Batch]:
        """As `Store.scan`, in the order of the keys."""
        after, none = b"", Batch()
        while batch := self._read(_database(table), partial(_read_batch, after=after), none):
            yield batch
            if len(batch) < BATCH:
                return
            after = batch[-1][0]

    def count(self, table: str) -> int:
        """As `Store.count`."""
        return self._read(_database(table), lambda txn, table: txn.stat(table)["entries"], 0)

    def drop(self, table: str) -> None:
        """As `Store.drop`."""
        self._run("nothing was written", lambda environment: environment.drop(_database(table)))

    def tables(self) -> list[str]:
        """As `Store.tables`."""
        none: list[bytes] = []
        databases = self._read(None, lambda txn, table: list(txn.cursor(table).iternext(values=False)), none)
        names = [name.removeprefix(_database("")).decode() for name in databases if name != HEAD]
        return sorted(name for name in names if self.count(name))

    def close(self) -> None:
        """As `Store.close`; other stores of this process in the same folder stay open."""
        with _OPENING:
            self._environment = None

    def _read(self, name: bytes | None, work: Callable[[Transaction, Table], T], missing: T) -> T:
        return self._run("cannot be read", lambda environment: environment.read(name, work, missing))

    def _run(self, failure: str, step: Callable[[Environment], T]) -> T:
        environment = self._environment
        if environment is None or environment.process != os.getpid():
            raise StoreError(f"{self.address}: closed, or this process was forked since; open it anew")
        return environment.run(self.address, failure, step)


class _HeadChangedError(Exception):
    """The head is not the expected one; ends the transaction with nothing written."""


def _database(table: str) -> bytes:
    return b"t:" + table.encode()


def _write(txn: Transaction, tables: Mapping[bytes, Table], entries: Entries) -> None:
    for name, pairs in entries.items():
        txn.cursor(tables[_database(name)]).putmulti(pairs)


def _read_batch(txn: Transaction, table: Table, after: bytes) -> Batch:
    """The pairs that follow a key, `BATCH` at most."""
    cursor = txn.cursor(table)
    exists = cursor.set_range(after)
    if exists and cursor.key() == after:
        exists = cursor.next()
    return list(islice(cursor.iternext(), BATCH)) if exists else []
