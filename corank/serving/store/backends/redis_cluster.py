"""A store in a Redis or Valkey Cluster, whose servers share its items.

The head and all that is written with it, such as the journal and changed items, lie in one slot: the head is a
string, `{PREFIX}:head`, a table a hash, `{PREFIX}:t:TABLE`. A table of `BULK` is spread over the slots: CRC-32 deals
its keys to hashes, `{PREFIX/NUMBER}:b:TABLE`. What is in braces decides the slot.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit
from zlib import crc32

from corank.core.errors import StoreError
from corank.core.lazy import name_missing_extra
from corank.serving.store.backends.redis import BATCH, PREFIX, read_password
from corank.serving.store.base import STORES, Entries, Pairs, hide_password, is_bulk

if TYPE_CHECKING:
    from corank.serving.store.redis_cluster_connection import Command, Words

PORT = 6379
HASHES = 1024
"""Hashes of a spread table: 100 million records of 500 bytes are 47 MiB in each."""
SCANNED = 32
"""Hashes that a scan reads at once."""

Batch: TypeAlias = list[tuple[bytes, bytes]]


@STORES.register("redis+cluster")
@STORES.register("rediss+cluster")
class RedisClusterStore:
    """The store `redis+cluster://HOST:PORT,HOST:PORT?prefix=NAME`: some servers of a cluster, which name the others.

    Password, prefix and options are those of `RedisStore`. With `?replicas=N` a write ends once N replicas of each
    server have it; without, a failover may lose the last writes, as Redis replicates later.

    Tables of `BULK` are written before the others and not in one step, so that a put that fails may leave a part of
    them. A scan begins a hash anew whose slot is moved meanwhile.
    """

    url_form: ClassVar[str] = "redis+cluster://HOST:PORT"

    def __init__(self, url: str, create: bool) -> None:
        self.address = hide_password(url)
        scheme, _, rest = url.partition("://")
        server, _, query = rest.partition("?")
        options = dict(parse_qsl(query))
        self._prefix = self._check_prefix(options.pop("prefix", PREFIX))
        replicas = self._parse_replicas(options.pop("replicas", "0"))
        password = read_password(self.address, options.pop("password_file", None))
        with name_missing_extra(f"the store {self.address}"):
            from corank.serving.store.redis_cluster_connection import ClusterConnection
        user, at, hosts = server.rpartition("@")
        try:
            if re.search("[/#]", server) or "@" in query:
                raise ValueError
            first, *others = hosts.split(",")
            bare = f"{scheme.removesuffix('+cluster')}://{user}{at}{first}?{urlencode(options)}"
            nodes = [_split_host(one) for one in others]
            self._connection = ClusterConnection(bare, nodes, self.address, password, replicas)
        except (TypeError, ValueError):
            # whose message may hold a part of the password
            raise StoreError(
                f"{self.address}: expected redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT without a database, with "
                "@ : / ? # % in a password percent-encoded, and options of redis-py"
            ) from None

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
        if any(map(is_bulk, (*entries, *gone))) and self.head() != before:
            return False
        transaction: list[Words] = []
        for table, keys in gone.items():
            commands = self._delete_commands(table, keys)
            if is_bulk(table):
                self._connection.run(commands, writes=True)
            else:
                transaction += [words for _, words in commands]
        transaction += self._write_bulk(entries)
        return self._connection.transact(
            self._head, [*transaction, ("SET", self._head, after)], before=(before,)
        )

    def put(self, entries: Entries) -> None:
        """As `Store.put`: the tables that are not spread in one transaction, after those that are."""
        if words := self._write_bulk(entries):
            self._connection.transact(self._head, words)

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get`; of a spread table at several moments."""
        values: list[bytes | None] = [None] * len(keys)
        spread = self._spread(table, keys)
        replies = self._connection.run(
            [(key, ("HMGET", key, *(keys[n] for n in numbers))) for key, numbers in spread.items()]
        )
        for numbers, reply in zip(spread.values(), replies, strict=True):
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
        """As `Store.tables`; while slots are moved, a table may be left out."""
        literal = re.sub(rb"[\\*?\[\]]", rb"\\\g<0>", self._prefix)
        name = re.compile(rb"\{%b(?:\}:t|/[0-9]+\}:b):(.+)" % re.escape(self._prefix), re.DOTALL)
        keys = self._connection.scan_keys(b"{" + literal + b"[}/]*", BATCH)
        return sorted({match[1].decode() for match in map(name.fullmatch, keys) if match})

    def close(self) -> None:
        """As `Store.close`."""
        self._connection.close()

    def read_clock(self) -> int:
        """As `ClockedStore.read_clock`: that of the server that has the head."""
        (reply,) = self._connection.run([(self._head, ("TIME",))])
        seconds, microseconds = reply.value
        return int(seconds) * 1000 + int(microseconds) // 1000

    def await_replicas(self) -> None:
        """As `ReplicatedStore.await_replicas`."""
        numbers = (b"{%b/%d}:sync" % (self._prefix, number) for number in range(HASHES))
        self._connection.await_replicas([b"{%b}:sync" % self._prefix, *numbers])

    @property
    def _head(self) -> bytes:
        return b"{" + self._prefix + b"}:head"

    def _hash(self, table: str, number: int = 0) -> bytes:
        """The key of a hash that holds a table, or a part of it."""
        if is_bulk(table):
            return b"{%b/%d}:b:%b" % (self._prefix, number, table.encode())
        return b"{%b}:t:%b" % (self._prefix, table.encode())

    def _hashes(self, table: str) -> list[bytes]:
        """The keys of all hashes that hold a table."""
        return [self._hash(table, number) for number in range(HASHES if is_bulk(table) else 1)]

    def _spread(self, table: str, keys: Sequence[bytes]) -> dict[bytes, list[int]]:
        """The positions of keys, by the hash that holds them."""
        count = HASHES if is_bulk(table) else 1
        spread: defaultdict[int, list[int]] = defaultdict(list)
        for n, key in enumerate(keys):
            spread[crc32(key) % count].append(n)
        return {self._hash(table, number): positions for number, positions in spread.items()}

    def _delete_commands(self, table: str, keys: Sequence[bytes]) -> list[Command]:
        """The commands that delete keys of a table."""
        return [
            (key, ("HDEL", key, *(keys[n] for n in some)))
            for key, numbers in self._spread(table, keys).items()
            for some in _cut(numbers)
        ]

    def _put_commands(self, table: str, pairs: Pairs) -> list[Command]:
        """The commands that put pairs into a table."""
        last = [*dict(pairs).items()]
        return [
            (key, ("HSET", key, *(word for n in some for word in last[n])))
            for key, numbers in self._spread(table, [key for key, _ in last]).items()
            for some in _cut(numbers)
        ]

    def _write_bulk(self, entries: Entries) -> list[Words]:
        """Write what is of spread tables, table by table, and return the commands that write the rest."""
        left: list[Words] = []
        for table, pairs in entries.items():
            commands = self._put_commands(table, pairs)
            if is_bulk(table):
                self._connection.run(commands, writes=True)
            else:
                left += [words for _, words in commands]
        return left

    def _scan_hashes(self, hashes: Sequence[bytes]) -> Iterator[Batch]:
        """Scan some hashes at once."""
        left, nodes = dict.fromkeys(hashes, b"0"), dict[bytes, object]()
        while left:
            words = [(key, ("HSCAN", key, at, "COUNT", BATCH // len(hashes))) for key, at in left.items()]
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

    def _check_prefix(self, prefix: str) -> bytes:
        """Raise StoreError for a prefix that would change what decides a slot."""
        if not prefix or re.search("[{}]", prefix):
            raise StoreError(f"{self.address}: prefix: expected one without braces; received {prefix!r}")
        return prefix.encode()

    def _parse_replicas(self, text: str) -> int:
        """Raise StoreError for what is no number of replicas."""
        if not re.fullmatch("[0-9]{1,2}", text):
            raise StoreError(f"{self.address}: replicas: expected a number from 0 to 99; received {text!r}")
        return int(text)


def _split_host(text: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or PORT


def _cut(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of what one command takes."""
    for first in range(0, len(numbers), BATCH):
        yield numbers[first : first + BATCH]
