"""A store in an LMDB environment: a folder on this machine, which many processes read and write at once.

A table is a named database; the head has one of its own, which also marks the folder as corank's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from corank.core.errors import StoreError
from corank.serving.store.base import STORES, Entries, Pairs

if TYPE_CHECKING:
    from corank.serving.store.lmdb_environment import Environment, Table, Transaction

T = TypeVar("T")
Batch = list[tuple[bytes, bytes]]

HEAD = b"head"
GIB = 1024
"""Default size of the memory map: it takes address space only, the file grows with its content."""
BATCH = 1000
"""Pairs of a batch of a scan."""
_OPENING = Lock()
"""Held while an environment is opened, or let go of: the last store to let go closes it."""


@STORES.register("lmdb")
class LMDBStore:
    """The store `lmdb:PATH[?gib=NUMBER]`; its commits are durable.

    Open it after a fork, not before: LMDB cannot be used in a forked process. Each batch of a scan is a snapshot of
    its own. A single snapshot would be consistent, but while it is held no writer can reuse a freed page.
    """

    url_form = "lmdb:PATH"
    maps_memory = True
    """Damage to its file may kill the process that reads it: a service reads it by another one (`open_isolated`)."""

    def __init__(self, url: str, create: bool) -> None:
        self.address = url
        match = re.fullmatch(r"lmdb:([^?]+)(?:\?gib=(?=[0.]*[1-9])(\d{1,5}(?:\.\d+)?))?", url)
        if not match:
            raise StoreError(f"expected lmdb:PATH or lmdb:PATH?gib=NUMBER; received {url!r}")
        path, size = Path(match[1]).absolute(), int(float(match[2] or GIB) * 2**30)
        from corank.serving.store.lmdb_environment import open_environment

        with _OPENING:
            self._environment: Environment | None = open_environment(url, path, size, HEAD, create)

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
