"""A store in a server that speaks the Redis protocol, which a fleet shares.

A table is a hash, `PREFIX:t:TABLE`; the head is a string, `PREFIX:head`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
    WatchError,
)
from redis.retry import Retry

from corank.core.errors import StoreError

Pairs = Sequence[tuple[bytes, bytes]]

PREFIX = "corank"
CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0
BATCH = 1000
REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
LOST = (ConnectionError, TimeoutError)
ADVICE: dict[tuple[type[RedisError], ...], str] = {
    REFUSED: "the server refuses: {}; check user, password and their permissions",
    (BusyLoadingError,): "the server is loading its data; try again once it has",
    (OutOfMemoryError,): "the server is out of memory, nothing was written; raise maxmemory or drop versions",
    (ReadOnlyError,): "the server is a replica, nothing was written; give the address of its primary",
    LOST: "the server cannot be reached: {}; start it, or check the address",
    (RedisError,): "{}",
}
"""The first that fits counts, since some of these are kinds of ConnectionError."""


class RedisStore:
    """`redis://HOST:PORT/DB?prefix=NAME`; a `corank.serving.store.base.Store`.

    The server must not evict (maxmemory-policy noeviction), and keeps what it is set to keep over a restart.
    Nothing is tried twice: a broken connection is an error, and the next call connects anew.
    """

    def __init__(self, url: str, address: str) -> None:
        """`address`: the URL without its password."""
        self.address = address
        server, _, query = url.partition("?")
        options = dict(parse_qsl(query))
        self._prefix = options.pop("prefix", PREFIX).encode()
        try:
            if re.search("[/?#].*@", url.partition("://")[2]):
                raise ValueError
            self._client = Redis.from_url(
                f"{server}?{urlencode(options)}",
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=REPLY_SECONDS,
                # No kind of error goes through redis-py's retries: they send a transaction twice, and take a
                # connection that is lost in a swap for a head that has changed
                retry=Retry(NoBackoff(), 0, supported_errors=()),
            )
            with self._translated():
                self._client.ping()
        except (TypeError, ValueError):
            # whose message may hold a part of the password
            raise StoreError(
                f"{address}: expected redis://USER:PASSWORD@HOST:PORT/DB, with @ : / ? # % in a password "
                "percent-encoded, and options of redis-py"
            ) from None

    def head(self) -> bytes | None:
        with self._translated():
            return cast("bytes | None", self._client.get(self._head))

    def swap(
        self,
        before: bytes | None,
        after: bytes,
        entries: Mapping[str, Pairs] = {},
        gone: Mapping[str, Sequence[bytes]] = {},
    ) -> bool:
        with self._translated(), self._client.pipeline() as pipe:
            pipe.watch(self._head)  # type: ignore[no-untyped-call]
            if pipe.get(self._head) != before:
                return False
            pipe.multi()
            for table, keys in gone.items():
                for at in range(0, len(keys), BATCH):
                    pipe.hdel(self._key(table), *keys[at : at + BATCH])
            self._fill(pipe, entries)
            pipe.set(self._head, after)
            return self._execute(pipe)

    def put(self, entries: Mapping[str, Pairs]) -> None:
        with self._translated(), self._client.pipeline() as pipe:
            # that a server is away shows before anything is sent
            self._client.ping()
            self._fill(pipe, entries)
            self._execute(pipe)

    def get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        with self._translated():
            return cast("list[bytes | None]", self._client.hmget(self._key(table), list(keys)))

    def scan(self, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        cursor = 0
        while True:
            with self._translated():
                found: tuple[int, Any] = self._client.hscan(self._key(table), cursor, count=BATCH)
            cursor, batch = found
            if batch:
                yield list(batch.items())
            if not cursor:
                return

    def count(self, table: str) -> int:
        with self._translated():
            return self._client.hlen(self._key(table))

    def drop(self, table: str) -> None:
        with self._translated():
            self._client.unlink(self._key(table))

    def tables(self) -> list[str]:
        literal = re.sub(rb"[\\*?\[\]]", rb"\\\g<0>", self._key(""))
        with self._translated():
            keys = set(self._client.scan_iter(match=literal + b"*", count=BATCH))
        return sorted(key.removeprefix(self._key("")).decode() for key in keys)

    def close(self) -> None:
        self._client.close()

    @property
    def _head(self) -> bytes:
        return self._prefix + b":head"

    def _key(self, table: str) -> bytes:
        return self._prefix + b":t:" + table.encode()

    def _fill(self, pipe: Pipeline, entries: Mapping[str, Pairs]) -> None:
        for table, pairs in entries.items():
            for at in range(0, len(pairs), BATCH):
                pipe.hset(self._key(table), mapping=dict(pairs[at : at + BATCH]))

    def _execute(self, pipe: Pipeline) -> bool:
        """False where the head has changed since it was watched."""
        try:
            pipe.execute()
        except WatchError:
            return False
        except (*REFUSED, BusyLoadingError):
            raise
        except LOST as error:
            raise StoreError(
                f"{self.address}: the connection was lost: {error}; what was sent may or may not have been "
                "written: see what the store holds before you send it again"
            ) from None
        return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            advice = next(advice for kinds, advice in ADVICE.items() if isinstance(error, kinds))
            raise StoreError(f"{self.address}: {advice.format(error)}") from None
