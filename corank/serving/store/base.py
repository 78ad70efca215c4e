"""Stores of bytes: tables by key, and one head that names what is live; `open_store` opens one by its address.

A new store is one file with what `Store` asks, and one line in `open_store`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from corank.core.errors import StoreError

Pairs = Sequence[tuple[bytes, bytes]]
"""Of key and value; of one key's pairs the last counts."""
Entries = Mapping[str, Pairs]
"""By table."""


class Store(Protocol):
    """Tables of bytes by key, and one head that names what is live, swapped as a whole.

    A table is there while it holds a key. Its name is text without NUL, a key is 1 byte or more, a value may be
    empty. Threads may share a store, processes an address. Every method raises StoreError where the store cannot
    be reached, read or written; it says so where a server's answer was lost, and the write may have been made.
    """

    address: str
    """As the user wrote it, without user and password: for messages."""

    def head(self) -> bytes | None: ...

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """Set the head if it is `before`; in the same atomic step delete keys of `gone`, then put `entries`.

        False, and nothing written, where the head is not `before` any more.
        """

    def put(self, entries: Entries) -> None:
        """All or nothing."""

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values in the order of `keys`, None where there is none, all as of one moment."""

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """A table in batches, in any order.

        A key that is there throughout comes at least once; one that is put or deleted meanwhile may come or not.
        """

    def count(self, table: str) -> int: ...

    def drop(self, table: str) -> None:
        """Remove a table, if it is there."""

    def tables(self) -> list[str]:
        """Their names, sorted."""

    def close(self) -> None: ...


def open_store(url: str, create: bool = False) -> Store:
    """The store at an address; close it after use.

    Args:
        url: `lmdb:PATH[?gib=NUMBER]`, or `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]`, `rediss://` and
            `unix://` alike, with further options as redis-py takes them.
        create: make an LMDB store where there is none; a Redis server needs no making.

    Raises StoreError if there is no store, or it cannot be opened or reached.
    """
    scheme = url.partition("://")[0]
    if url.startswith("lmdb:"):
        from corank.serving.store.lmdb import LMDBStore

        return LMDBStore(url, create)
    if scheme in {"redis", "rediss", "unix"}:
        from corank.serving.store.redis import RedisStore

        return RedisStore(url, _without_password(url))
    raise StoreError(f"expected lmdb:PATH or redis://HOST:PORT; received {_without_password(url)!r}")


def _without_password(url: str) -> str:
    """Up to the last @, since a password that is not percent-encoded may hold any character."""
    bare = re.sub(r"^(\w+://)?.*@", r"\1", url, flags=re.DOTALL)
    return re.sub(r"(password=)[^&]*", r"\1…", bare)


def is_store(url: str) -> bool:
    """Whether something is a store's address, rather than a path."""
    return url.startswith(("lmdb:", "redis://", "rediss://", "unix://"))
