"""A store in a server that speaks the Redis protocol, which many machines share.

A table is a hash, `PREFIX:t:TABLE`; the head is a string, `PREFIX:head`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from urllib.parse import parse_qsl, urlencode
from zlib import crc32

from corank.core.errors import StoreError
from corank.core.lazy import name_missing_extra
from corank_serve.store.base import STORES, Entries, Pairs, hide_password

if TYPE_CHECKING:
    from corank_serve.store.redis_connection import Command, RedisConnection, Words

Batch: TypeAlias = list[tuple[bytes, bytes]]

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
SCANNED = 32
"""Hashes that a scan reads at once."""


@STORES.register("redis")
@STORES.register("rediss")
@STORES.register("unix")
class RedisStore:
    """The store `redis://HOST:PORT/DB?prefix=NAME`.

    Its password is that of the URL, or else the content of the file `?password_file=PATH`, or of CORANK_REDIS_PASSWORD:
    other users of the machine can read the arguments of a process, and so a password in a URL.

    The server must not evict (maxmemory-policy noeviction); what survives its restart is up to its settings. Nothing is
    retried: a broken connection is an error, and the next call connects anew.

    A table is one hash here; that of a subclass may be spread over several, by CRC-32 of its keys.
    """

    url_form: ClassVar[str] = "redis://HOST:PORT"
    expected: ClassVar[str] = "redis://USER:PASSWORD@HOST:PORT/DB,"
    """The form of its URLs in full, for a message."""

    def __init__(self, url: str, create: bool) -> None:
        self.address = hide_password(url)
        server, _, query = url.partition("?")
        options = dict(parse_qsl(query))
        self._prefix = options.pop("prefix", PREFIX).encode()
        password = read_password(self.address, options.pop("password_file", None))
        try:
            with name_missing_extra(f"the store {self.address}"):
                self._connection = self._connect(url, server, options, password)
        except (TypeError, ValueError):
            # whose message may hold a part of the password
            raise StoreError(
                f"{self.address}: expected {self.expected} with @ : / ? # % in a password percent-encoded, and options "
                "of redis-py"
            ) from None

    def _connect(
        self, url: str, server: str, options: dict[str, str], password: str | None
    ) -> RedisConnection:
        """Connect to the server of a URL. Raises StoreError; TypeError or ValueError if the URL is malformed."""
        from corank_serve.store.redis_connection import RedisConnection

        if re.search("[/?#].*@", url.partition("://")[2]):
            raise ValueError
        return RedisConnection(f"{server}?{urlencode(options)}", self.address, password)

    def head(self) -> bytes | None:
        """As `Store.head`."""
        (reply,) = self._connection.run([(self._head, ("GET", self._head))])
        value: bytes | None = reply.value
        return value

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        """As `Store.swap`: a transaction that watches the head, after what is of spread tables."""
        if any(self._count_hashes(table) > 1 for table in (*entries, *gone)) and self.head() != before:
            return False
        transaction: list[Words] = []
        for table, keys in gone.items():
            transaction += self._write_spread(table, self._delete_commands(table, keys))
        for table, pairs in entries.items():
            transaction += self._write_spread(table, self._put_commands(table, pairs))
        return self._connection.transact(
            self._head, [*transaction, ("SET", self._head, after)], before=(before,)
        )

    def put(self, entries: Entries) -> None:
        """As `Store.put`: the tables that are not spread in one transaction, after those that are."""
        transaction: list[Words] = []
        for table, pairs in entries.items():
            transaction += self._write_spread(table, self._put_commands(table, pairs))
        if transaction:
            self._connection.transact(self._head, transaction)

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get`; of a spread table at several moments."""
        values: list[bytes | None] = [None] * len(keys)
        spread = self._spread(table, keys)
        commands: list[Command] = [
            (key, ("HMGET", key, *(keys[n] for n in numbers))) for key, numbers in spread.items()
        ]
        if commands:
            for numbers, reply in zip(spread.values(), self._connection.run(commands), strict=True):
                for n, value in zip(numbers, reply.value, strict=True):
                    values[n] = value
        return values

    def scan(self, table: str) -> Iterator[Batch]:
        """As `Store.scan`."""
        hashes = self._hashes(table)
        for first in range(0, len(hashes), SCANNED):
            yield from self._scan_hashes(hashes[first : first + SCANNED])

    def count(self, table: str) -> int:
        """As `Store.count`."""
        replies = self._connection.run([(key, ("HLEN", key)) for key in self._hashes(table)])
        return sum(reply.value for reply in replies)

    def drop(self, table: str) -> None:
        """As `Store.drop`."""
        self._connection.run([(key, ("UNLINK", key)) for key in self._hashes(table)], writes=True)

    def tables(self) -> list[str]:
        """As `Store.tables`."""
        literal = re.sub(rb"[\\*?\[\]]", rb"\\\g<0>", self._hash(""))
        keys = set(self._connection.scan_keys(literal + b"*", BATCH))
        return sorted(key.removeprefix(self._hash("")).decode() for key in keys)

    def close(self) -> None:
        """As `Store.close`."""
        self._connection.close()

    def read_clock(self) -> int:
        """The time of the store, ms UTC: that of the server that has the head."""
        (reply,) = self._connection.run([(self._head, ("TIME",))])
        seconds, microseconds = reply.value
        return int(seconds) * 1000 + int(microseconds) // 1000

    @property
    def _head(self) -> bytes:
        return self._prefix + b":head"

    def _count_hashes(self, table: str) -> int:
        """How many hashes hold a table."""
        return 1

    def _hash(self, table: str, number: int = 0) -> bytes:
        """The key of a hash that holds a table, or a part of it."""
        return self._prefix + b":t:" + table.encode()

    def _hashes(self, table: str) -> list[bytes]:
        """The keys of all hashes that hold a table."""
        return [self._hash(table, number) for number in range(self._count_hashes(table))]

    def _spread(self, table: str, keys: Sequence[bytes]) -> dict[bytes, list[int]]:
        """The positions of keys, by the hash that holds them."""
        count = self._count_hashes(table)
        spread: defaultdict[int, list[int]] = defaultdict(list)
        for n, key in enumerate(keys):
            spread[crc32(key) % count].append(n)
        return {self._hash(table, number): positions for number, positions in spread.items()}

    def _delete_commands(self, table: str, keys: Sequence[bytes]) -> list[Command]:
        """The commands that delete keys of a table."""
        return [
            (key, ("HDEL", key, *(keys[n] for n in numbers[first : first + BATCH])))
            for key, numbers in self._spread(table, keys).items()
            for first in range(0, len(numbers), BATCH)
        ]

    def _put_commands(self, table: str, pairs: Pairs) -> list[Command]:
        """The commands that put pairs into a table."""
        last = [*dict(pairs).items()]
        return [
            (key, ("HSET", key, *(word for n in numbers[first : first + BATCH] for word in last[n])))
            for key, numbers in self._spread(table, [key for key, _ in last]).items()
            for first in range(0, len(numbers), BATCH)
        ]

    def _write_spread(self, table: str, commands: list[Command]) -> list[Words]:
        """Carry out the commands of a spread table now; return those of another, for a transaction."""
        if self._count_hashes(table) == 1:
            return [words for _, words in commands]
        self._connection.run(commands, writes=True)
        return []

    def _scan_hashes(self, hashes: Sequence[bytes]) -> Iterator[Batch]:
        """Scan some hashes at once."""
        left, nodes = dict.fromkeys(hashes, b"0"), dict[bytes, object]()
        while left:
            words: list[Command] = [
                (key, ("HSCAN", key, at, "COUNT", BATCH // len(hashes))) for key, at in left.items()
            ]
            pairs, scanned, left = Batch(), [*left], {}
            for key, reply in zip(scanned, self._connection.run(words), strict=True):
                cursor, entries = reply.value
                pairs += zip(entries[::2], entries[1::2], strict=True)
                if nodes.setdefault(key, reply.node) != reply.node:
                    # a cursor is of one server: this one may have passed over keys
                    nodes[key], left[key] = reply.node, b"0"
                elif cursor != b"0":
                    left[key] = cursor
            for first in range(0, len(pairs), BATCH):
                yield pairs[first : first + BATCH]
