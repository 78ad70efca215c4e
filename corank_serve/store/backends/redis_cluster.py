"""A store in a Redis or Valkey Cluster, whose servers share its items.

The head and all that is written with it, such as the journal and changed items, lie in one slot: the head is a
string, `{PREFIX}:head`, a table a hash, `{PREFIX}:t:TABLE`. A table of `BULK` is spread over the slots: CRC-32 deals
its keys to hashes, `{PREFIX/NUMBER}:b:TABLE`. What is in braces decides the slot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlencode, urlsplit

from corank.core.errors import StoreError
from corank_serve.store.backends.redis import BATCH, RedisStore
from corank_serve.store.base import STORES, is_bulk

if TYPE_CHECKING:
    from corank_serve.store.redis_cluster_connection import ClusterConnection

PORT = 6379
HASHES = 1024
"""Hashes of a spread table: 100 million records of 500 bytes are 47 MiB in each."""


@STORES.register("redis+cluster")
@STORES.register("rediss+cluster")
class RedisClusterStore(RedisStore):
    """The store `redis+cluster://HOST:PORT,HOST:PORT?prefix=NAME`: some servers of a cluster, which name the others.

    Password, prefix and options are those of `RedisStore`. With `?replicas=N` a write ends once N replicas of each
    server have it; without, a failover may lose the last writes, as Redis replicates later.

    Tables of `BULK` are written before the others and not in one step, so that a put that fails may leave a part of
    them. A scan begins a hash anew whose slot is moved meanwhile.
    """

    url_form: ClassVar[str] = "redis+cluster://HOST:PORT"
    expected: ClassVar[str] = "redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT without a database,"
    _connection: ClusterConnection

    def _connect(
        self, url: str, server: str, options: dict[str, str], password: str | None
    ) -> ClusterConnection:
        from corank_serve.store.redis_cluster_connection import ClusterConnection

        prefix, replicas = self._prefix.decode(), options.pop("replicas", "0")
        if not prefix or re.search("[{}]", prefix):  # which would change what decides a slot
            raise StoreError(f"{self.address}: prefix: expected one without braces; received {prefix!r}")
        if not re.fullmatch("[0-9]{1,2}", replicas):
            raise StoreError(
                f"{self.address}: replicas: expected a number from 0 to 99; received {replicas!r}"
            )
        scheme, _, place = server.partition("://")
        user, at, hosts = place.rpartition("@")
        if re.search("[/#]", place) or "@" in url.partition("?")[2]:
            raise ValueError
        first, *others = hosts.split(",")
        bare = f"{scheme.removesuffix('+cluster')}://{user}{at}{first}?{urlencode(options)}"
        nodes = [_split_host(one) for one in others]
        return ClusterConnection(bare, nodes, self.address, password, int(replicas))

    def tables(self) -> list[str]:
        """As `Store.tables`; while slots are moved, a table may be left out."""
        literal = re.sub(rb"[\\*?\[\]]", rb"\\\g<0>", self._prefix)
        name = re.compile(rb"\{%b(?:\}:t|/[0-9]+\}:b):(.+)" % re.escape(self._prefix), re.DOTALL)
        keys = self._connection.scan_keys(b"{" + literal + b"[}/]*", BATCH)
        return sorted({match[1].decode() for match in map(name.fullmatch, keys) if match})

    def await_replicas(self) -> None:
        """Wait until all that was written is on a replica of each server, where one is connected."""
        numbers = (b"{%b/%d}:sync" % (self._prefix, number) for number in range(HASHES))
        self._connection.await_replicas([b"{%b}:sync" % self._prefix, *numbers])

    @property
    def _head(self) -> bytes:
        return b"{%b}:head" % self._prefix

    def _count_hashes(self, table: str) -> int:
        return HASHES if is_bulk(table) else 1

    def _hash(self, table: str, number: int = 0) -> bytes:
        if is_bulk(table):
            return b"{%b/%d}:b:%b" % (self._prefix, number, table.encode())
        return b"{%b}:t:%b" % (self._prefix, table.encode())


def _split_host(text: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or PORT
