"""A store in an LMDB environment: a folder on this machine, which many processes read and write at once.

A table is a named database; the head has one of its own, which also marks the folder as corank's.
"""

import errno
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TypeAlias, TypeVar
from weakref import WeakValueDictionary

import lmdb

from corank.core.errors import StoreError

Pairs = Sequence[tuple[bytes, bytes]]
Batch = list[tuple[bytes, bytes]]
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Table = lmdb._Database
T = TypeVar("T")

HEAD = b"head"
GIB = 1024
"""The map's size unless given: address space alone, the file grows with what it holds."""
HANDLES = 1024
"""Tables that a process may have open at once."""
BATCH = 1000
STALE = (lmdb.DbsFullError, lmdb.MapResizedError, lmdb.BadDbiError, lmdb.PanicError)
"""What an environment that is opened anew is free of."""


class LMDBStore:
    """`lmdb:PATH[?gib=NUMBER]`; a `corank.serving.store.base.Store` whose commits are durable.

    Open it after a fork, not before: LMDB cannot be used in a forked process. Each batch of a scan is a snapshot
    of its own. One snapshot for all would be consistent, but while it is held no writer can reuse a freed page.
    """

    def __init__(self, url: str, create: bool) -> None:
        self.address = url
        found = re.fullmatch(r"lmdb:([^?]+)(?:\?gib=(?=[0.]*[1-9])(\d{1,5}(?:\.\d+)?))?", url)
        if not found:
            raise StoreError(f"expected lmdb:PATH or lmdb:PATH?gib=NUMBER; received {url!r}")
        path, size = Path(found[1]).absolute(), float(found[2] or GIB) * 2**30
        try:
            with _OPENING:
                _check(url, path, create)
                self._environment: _Environment | None = _shared(path, int(size), create)
        except lmdb.NotFoundError:
            raise StoreError(
                f"{url}: holds an LMDB environment without a store; name another folder"
            ) from None
        except lmdb.MemoryError:
            raise StoreError(
                f"{url}: the address space is too small; give less, lmdb:PATH?gib=NUMBER"
            ) from None
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"{url}: cannot be opened: {error}") from None

    def head(self) -> bytes | None:
        return self._read(HEAD, lambda txn, table: txn.get(HEAD, db=table), None)

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        def work(txn: Transaction, tables: Mapping[bytes, Table]) -> None:
            if txn.get(HEAD, db=tables[HEAD]) != before:
                raise _ChangedError
            for name, keys in gone.items():
                for key in keys:
                    txn.delete(key, db=tables[_name(name)])
            _fill(txn, tables, entries)
            txn.put(HEAD, after, db=tables[HEAD])

        names = {HEAD, *map(_name, entries), *map(_name, gone)}
        try:
            self._run("nothing was written", lambda environment: environment.write(names, work))
        except _ChangedError:
            return False
        return True

    def put(self, entries: Mapping[str, Pairs]) -> None:
        names, work = {*map(_name, entries)}, partial(_fill, entries=entries)
        self._run("nothing was written", lambda environment: environment.write(names, work))

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        def work(txn: Transaction, table: Table) -> list[bytes | None]:
            return [txn.get(key, db=table) for key in keys]

        return self._read(_name(table), work, [None] * len(keys))

    def scan(self, table: str) -> Iterator[Batch]:
        after, none = b"", Batch()
        while batch := self._read(_name(table), partial(_batch, after=after), none):
            yield batch
            if len(batch) < BATCH:
                return
            after = batch[-1][0]

    def count(self, table: str) -> int:
        return self._read(_name(table), lambda txn, table: txn.stat(table)["entries"], 0)

    def drop(self, table: str) -> None:
        self._run("nothing was written", lambda environment: environment.drop(_name(table)))

    def tables(self) -> list[str]:
        none: list[bytes] = []
        found = self._read(None, lambda txn, table: list(txn.cursor(table).iternext(values=False)), none)
        names = [name.removeprefix(_name("")).decode() for name in found if name != HEAD]
        return sorted(name for name in names if self.count(name))

    def close(self) -> None:
        with _OPENING:
            self._environment = None

    def _read(self, name: bytes | None, work: Callable[[Transaction, Table], T], missing: T) -> T:
        return self._run("cannot be read", lambda environment: environment.read(name, work, missing))

    def _run(self, what: str, step: Callable[["_Environment"], T]) -> T:
        environment = self._environment
        if environment is None or environment.process != os.getpid():
            raise StoreError(f"{self.address}: closed, or this process was forked since; open it anew")
        try:
            try:
                return step(environment)
            except STALE:
                environment.reopen(environment.size)
                return step(environment)
        except lmdb.MapFullError:
            gib = f"{round(environment.size / 2**30, 3):g} GiB"
            advice = "open the store with a larger one, lmdb:PATH?gib=NUMBER"
            raise StoreError(f"{self.address}: {what}: the map of {gib} is full; {advice}") from None
        except lmdb.BadValsizeError:
            limit = f"longer than LMDB's limit of {environment.env.max_key_size()} bytes"
            raise StoreError(f"{self.address}: {what}: a key or a table's name is empty or {limit}") from None
        except lmdb.Error as error:
            # a write that the disk takes in part is EIO to LMDB
            advice = "; is its disk full?" if error.code in {errno.EIO, errno.ENOSPC} else ""
            raise StoreError(f"{self.address}: {what}: {error}{advice}") from None


class _ChangedError(Exception):
    """The head is another one; ends the transaction without a trace."""


def _name(table: str) -> bytes:
    return b"t:" + table.encode()


def _fill(txn: Transaction, tables: Mapping[bytes, Table], entries: Mapping[str, Pairs]) -> None:
    for name, pairs in entries.items():
        txn.cursor(tables[_name(name)]).putmulti(pairs)


def _batch(txn: Transaction, table: Table, after: bytes) -> Batch:
    cursor = txn.cursor(table)
    there = cursor.set_range(after)
    if there and cursor.key() == after:
        there = cursor.next()
    return list(islice(cursor.iternext(), BATCH)) if there else []


class _Environment:
    """What a process may open but once on a file, and its stores there share.

    LMDB lets one transaction of a process at a time open tables or drop them, to its very end: it holds `handles`.
    Reads open their table and close it, so that a server does not run out of handles over many versions. Writes
    keep them open, and hold `handles` only for a table that is new to them: reads wait for no flush to disk.
    """

    def __init__(self, path: Path, size: int, create: bool) -> None:
        self.path, self.process = path, os.getpid()
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
                self.env.open_db(HEAD, txn=txn, create=new)
        except BaseException:
            self.env.close()
            raise

    def reopen(self, size: int) -> None:
        with self.writing, self.handles:
            self.env.close()
            self._open(size, create=False)

    def read(self, name: bytes | None, work: Callable[[Transaction, Table], T], missing: T) -> T:
        """Of a table, or of the list of tables where `name` is None."""
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
        with self.writing:
            new = names - self.tables.keys()
            with self.handles if new else nullcontext(), self.env.begin(write=True) as txn:
                opened = {name: self.env.open_db(name, txn=txn) for name in new}
                work(txn, self.tables | opened)
            self.tables |= opened

    def drop(self, name: bytes) -> None:
        with self.writing, self.handles, self.env.begin(write=True) as txn:
            table = self.tables.pop(name) if name in self.tables else self.env.open_db(name, txn=txn)
            txn.drop(table)


_OPENING = Lock()
_OPEN: WeakValueDictionary[tuple[int, int] | None, _Environment] = WeakValueDictionary()


def _shared(path: Path, size: int, create: bool) -> _Environment:
    environment = _OPEN.get(_file(path)) or _Environment(path, size, create)
    _OPEN[_file(path)] = environment
    if environment.size < size:
        environment.reopen(size)
    return environment


def _file(path: Path) -> tuple[int, int] | None:
    """What LMDB must not open twice: a file, whatever path leads to it."""
    data = path / "data.mdb"
    if not data.exists():
        return None
    found = data.stat()
    return found.st_dev, found.st_ino


def _check(url: str, path: Path, create: bool) -> None:
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
