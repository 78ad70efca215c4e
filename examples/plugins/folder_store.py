"""A store: a folder of files, one a table, and an index that names them and holds the head.

    corank --plugin folder_store publish bundle folder:store

A file is never changed: a write makes new ones, then renames a new index over the old one. A lock file lets one process
write at a time; readers need none, since they read what one index names.
"""

import fcntl
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from corank.core.errors import StoreError
from corank_serve.store.base import STORES, Pairs

BATCH = 1000


class Index(msgspec.Struct):
    """What the folder holds."""

    head: bytes | None = None
    files: dict[str, str] = {}
    """By table."""


@STORES.register("folder")
class FolderStore:
    """The store `folder:PATH`."""

    url_form = "folder:PATH"

    def __init__(self, url: str, create: bool) -> None:
        self.address, self._folder = url, Path(url.removeprefix("folder:"))
        if create:
            self._folder.mkdir(parents=True, exist_ok=True)
        if not self._folder.is_dir():
            raise StoreError(f"{url}: there is no such folder; `corank publish` makes one")

    def head(self) -> bytes | None:
        """As `Store.head`."""
        return self._index().head

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """As `Store.swap`."""
        with self._locked():
            if self._index().head != before:
                return False
            self._write(entries, gone, lambda index: setattr(index, "head", after))
        return True

    def put(self, entries: Mapping[str, Pairs]) -> None:
        """As `Store.put`."""
        with self._locked():
            self._write(entries)

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get`."""
        held = self._table(table)
        return [held.get(key) for key in keys]

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `Store.scan`, in the order of the keys; each batch is of the newest file."""
        last = b""
        while True:
            held = self._table(table)
            keys = sorted(held)
            following = keys[bisect_right(keys, last) :][:BATCH]
            if following:
                yield [(key, held[key]) for key in following]
            if len(following) < BATCH:
                return
            last = following[-1]

    def count(self, table: str) -> int:
        """As `Store.count`."""
        return len(self._table(table))

    def drop(self, table: str) -> None:
        """As `Store.drop`."""
        with self._locked():
            self._write({}, change=lambda index: index.files.pop(table, None))

    def tables(self) -> list[str]:
        """As `Store.tables`."""
        return sorted(self._index().files)

    def close(self) -> None:
        """As `Store.close`: no file stays open between two calls."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _index(self) -> Index:
        try:
            return msgspec.msgpack.decode((self._folder / "index").read_bytes(), type=Index)
        except FileNotFoundError:
            return Index()

    def _table(self, table: str) -> dict[bytes, bytes]:
        while True:
            name = self._index().files.get(table)
            if name is None:
                return {}
            try:
                return msgspec.msgpack.decode((self._folder / name).read_bytes(), type=dict[bytes, bytes])
            except FileNotFoundError:
                continue  # a writer has replaced it: the index names another one by now

    def _write(
        self,
        entries: Mapping[str, Pairs],
        gone: Mapping[str, Sequence[bytes]] = {},
        change: Callable[[Index], object] = lambda index: None,
    ) -> None:
        """Write new files and an index of them. The caller holds the lock."""
        index = self._index()
        for table in dict.fromkeys([*gone, *entries]):
            held = self._table(table)
            for key in gone.get(table, ()):
                held.pop(key, None)
            held |= dict(entries.get(table, ()))
            index.files.pop(table, None)
            if held:
                index.files[table] = uuid.uuid4().hex
                (self._folder / index.files[table]).write_bytes(msgspec.msgpack.encode(held))
        change(index)
        partial = self._folder / "index.partial"
        partial.write_bytes(msgspec.msgpack.encode(index))
        partial.replace(self._folder / "index")
        for file in self._folder.iterdir():
            if file.name not in {"index", "lock", *index.files.values()}:
                file.unlink()
