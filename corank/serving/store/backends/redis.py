"""A store in a server that speaks the Redis protocol, which many machines share.

A table is a hash, `PREFIX:t:TABLE`; the head is a string, `PREFIX:head`.

The password of a Redis server, from a file or the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode

from corank.core.errors import StoreError
from corank.core.lazy import name_missing_extra
from corank.serving.store.base import STORES, Entries, Pairs, hide_password

if TYPE_CHECKING:
    from redis.client import Pipeline


PASSWORD = "CORANK_REDIS_PASSWORD"
"""Environment variable of the password."""
LONGEST = 4096
"""Characters of a file of a password."""


def read_password(address: str, file: str | None) -> str | None:
    """Return the password of a file, or else of the environment; None if there is none.

    Args:
        address: of the store, for messages.
        file: its path; None for the environment.

    Raises StoreError if others can read the file.
    """
    if file is None:
        return os.environ.get(PASSWORD) or None
    try:
        with Path(file).open(encoding="utf-8") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise StoreError(f"{address}: others can read {file}; first chmod 600 {file}")
            password = opened.read(LONGEST).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{address}: the password cannot be read: {error}") from None
    if not password or "\n" in password:
        raise StoreError(f"{address}: {file}: expected the password alone, on one line")
    return password


PREFIX = "corank"
BATCH = 1000
"""Pairs of a batch of a scan, and of a command."""


@STORES.register("redis")
@STORES.register("rediss")
@STORES.register("unix")
class RedisStore:
    """The store `redis://HOST:PORT/DB?prefix=NAME`.

    Its password is that of the URL, or else the content of the file `?password_file=PATH`, or of CORANK_REDIS_PASSWORD:
    other users of the machine can read the arguments of a process, and so a password in a URL.

    The server must not evict (maxmemory-policy noeviction); what survives its restart is up to its settings. Nothing is
    retried: a broken connection is an error, and the next call connects anew.
    """

    url_form = "redis://HOST:PORT"

    def __init__(self, url: str, create: bool) -> None:
        self.address = hide_password(url)
        server, _, query = url.partition("?")
        options = dict(parse_qsl(query))
        self._prefix = options.pop("prefix", PREFIX).encode()
        password = read_password(self.address, options.pop("password_file", None))
        with name_missing_extra(f"the store {self.address}"):
            from corank.serving.store.redis_connection import RedisConnection
        try:
            if re.search("[/?#].*@", url.partition("://")[2]):
                raise ValueError
            self._connection = RedisConnection(f"{server}?{urlencode(options)}", self.address, password)
        except (TypeError, ValueError):
            # whose message may hold a part of the password
            raise StoreError(
                f"{self.address}: expected redis://USER:PASSWORD@HOST:PORT/DB, with @ : / ? # % in a password "
                "percent-encoded, and options of redis-py"
            ) from None

    def head(self) -> bytes | None:
        """As `Store.head`."""
        with self._connection.client() as client:
            return cast("bytes | None", client.get(self._head))

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """As `Store.swap`: a transaction that watches the head."""
        with self._connection.pipeline() as pipe:
            pipe.watch(self._head)
            if pipe.get(self._head) != before:
                return False
            pipe.multi()
            for table, keys in gone.items():
                for first in range(0, len(keys), BATCH):
                    pipe.hdel(self._key(table), *keys[first : first + BATCH])
            self._write(pipe, entries)
            pipe.set(self._head, after)
            return self._connection.execute(pipe)

    def put(self, entries: Entries) -> None:
        """As `Store.put`."""
        with self._connection.pipeline() as pipe:
            # so that an unreachable server shows before anything is sent
            self._connection.ping()
            self._write(pipe, entries)
            self._connection.execute(pipe)

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get`."""
        if not keys:
            return []
        with self._connection.client() as client:
            return cast("list[bytes | None]", client.hmget(self._key(table), list(keys)))

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `Store.scan`."""
        cursor = 0
        while True:
            with self._connection.client() as client:
                reply: tuple[int, Any] = client.hscan(self._key(table), cursor, count=BATCH)
            cursor, batch = reply
            if batch:
                yield list(batch.items())
            if not cursor:
                return

    def count(self, table: str) -> int:
        """As `Store.count`."""
        with self._connection.client() as client:
            return client.hlen(self._key(table))

    def drop(self, table: str) -> None:
        """As `Store.drop`."""
        with self._connection.client() as client:
            client.unlink(self._key(table))

    def tables(self) -> list[str]:
        """As `Store.tables`."""
        literal = re.sub(rb"[\\*?\[\]]", rb"\\\g<0>", self._key(""))
        with self._connection.client() as client:
            keys = set(client.scan_iter(match=literal + b"*", count=BATCH))
        return sorted(key.removeprefix(self._key("")).decode() for key in keys)

    def close(self) -> None:
        """As `Store.close`."""
        self._connection.close()

    def read_clock(self) -> int:
        """As `ClockedStore.read_clock`: the server's."""
        with self._connection.client() as client:
            seconds, microseconds = client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    @property
    def _head(self) -> bytes:
        return self._prefix + b":head"

    def _key(self, table: str) -> bytes:
        return self._prefix + b":t:" + table.encode()

    def _write(self, pipe: Pipeline, entries: Entries) -> None:
        for table, pairs in entries.items():
            for first in range(0, len(pairs), BATCH):
                pipe.hset(self._key(table), mapping=dict(pairs[first : first + BATCH]))
