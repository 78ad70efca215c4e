"""A connection to a Redis server, whose errors say what to do.

Commands are sent to one connection of a pool, and an error that the server sends is a reply: a pipeline of redis-py
sends a transaction again whose reply was lost, and takes a lost connection for a head that has changed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface, ConnectionPool
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TimeoutError,
    TryAgainError,
)
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from corank.core.errors import StoreError

Kinds = tuple[type[Exception], ...]

REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
LOST = (ConnectionError, TimeoutError)
ANY = (RedisError, RedisClusterException)
"""All errors of redis-py: those of its client of a cluster are no RedisErrors."""

ADVICE: list[tuple[Kinds, str]] = [
    (REFUSED, "the server refuses: {}; check user, password and their permissions"),
    ((BusyLoadingError,), "the server is loading its data; try again once it has"),
    (
        (OutOfMemoryError,),
        "the server is out of memory, nothing was written; raise maxmemory or drop versions",
    ),
    ((ReadOnlyError,), "the server is a replica, nothing was written; give the address of its primary"),
    ((AskError,), "the server is one of a cluster; give redis+cluster://HOST:PORT"),
    (LOST, "the server cannot be reached: {}; start it, or check the address"),
    (ANY, "{}"),
]
"""The first that fits counts, since some of these are kinds of ConnectionError."""

CLUSTER_ADVICE: list[tuple[Kinds, str]] = [
    (
        (ClusterDownError, SlotNotCoveredError),
        "the cluster is down in part: {}; bring back the primaries that failed, or promote their replicas",
    ),
    (
        (OutOfMemoryError,),
        "a server of the cluster is out of memory, others may have written their part; raise maxmemory or drop "
        "versions",
    ),
    (
        (AskError, TryAgainError),
        "a slot is being moved between servers: {}; try again once it has, or see `CLUSTER NODES`",
    ),
    ((RedisClusterException,), "{}; give redis://HOST:PORT of a server that is of no cluster"),
    *ADVICE,
]
"""As `ADVICE`, of a cluster."""


CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0

Words: TypeAlias = tuple[bytes | str | int, ...]
"""A command."""
Command: TypeAlias = tuple[bytes, Words]
"""A key, whose slot in a cluster has the command, and the command."""


class Reply(NamedTuple):
    """A server's answer to a command."""

    node: Any
    """The server of a cluster."""
    value: Any


def send_commands(link: ConnectionInterface, commands: Sequence[Words]) -> None:
    """Send commands to a server. Raises ConnectionError, TimeoutError of redis-py."""
    link.send_packed_command(link.pack_commands(commands))


def read_reply(link: ConnectionInterface) -> Any:
    """Read the next reply. Raises as `send_commands`."""
    try:
        return link.read_response()
    except ResponseError as error:
        return error


def converse(link: ConnectionInterface, commands: Sequence[Words]) -> list[Any]:
    """Send commands to a server and read their replies. Raises as `send_commands`."""
    send_commands(link, commands)
    return [read_reply(link) for _ in commands]


def raise_error(replies: Iterable[Any]) -> None:
    """Raise the first error of some replies."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply


def watch_value(link: ConnectionInterface, key: bytes, value: bytes | None) -> bool:
    """Watch a key, so that a transaction fails if it changes; False, with nothing watched, if it has another value."""
    replies = converse(link, [("WATCH", key), ("GET", key)])
    raise_error(replies)
    if replies[1] != value:
        raise_error(converse(link, [("UNWATCH",)]))
        return False
    return True


class RedisConnection:
    """A client of one server, whose errors are StoreErrors. Safe to share between threads; nothing is sent twice."""

    advice = ADVICE
    _after_writes: Sequence[Words] = ()
    """Commands that follow each write; the last one tells how many replicas have it."""

    def __init__(self, url: str, address: str, password: str | None = None) -> None:
        """Connect to a server.

        Args:
            url: with redis-py's options.
            address: the URL without password, for messages.
            password: if the URL has none.

        Raises StoreError; TypeError or ValueError if the URL or its options are malformed.
        """
        self._address = address
        self._pool = ConnectionPool.from_url(
            url,
            password=password,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=REPLY_SECONDS,
            retry=Retry(NoBackoff(), 0, supported_errors=()),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self.run([(b"", ("PING",))])

    def run(self, commands: Sequence[Command], writes: bool = False) -> list[Reply]:
        """Carry out commands in their order.

        Args:
            commands: to carry out; each is on one key, and may be carried out twice without harm.
            writes: whether they write; then replicas of a cluster have it, as many as they must, before this returns.

        Returns their replies. Raises StoreError.
        """
        with self._explained():
            with self._link(None) as link:
                replies = converse(link, [words for _, words in commands])
            raise_error(replies)
        return [Reply(None, value) for value in replies]

    def transact(
        self, key: bytes, commands: Iterable[Words], before: tuple[bytes | None] | None = None
    ) -> bool:
        """Carry out commands in one transaction.

        Args:
            key: a key, on whose server the transaction runs.
            commands: the slot of all their keys is that of `key`.
            before: the value that the key must have, alone in a tuple; None if it may have any.

        Returns False, with nothing written, if the key has another value. Raises StoreError.
        """
        with self._explained():
            return self._transact(None, key, [("MULTI",), *commands, ("EXEC",)], before)

    def scan_keys(self, pattern: bytes, batch: int) -> Iterator[bytes]:
        """Iterate over the keys of all servers that match a pattern; some may come twice.

        A key whose slot is moved meanwhile may be left out. Raises StoreError.
        """
        with self._explained():
            for node in self._list_nodes():
                cursor = b""
                while cursor != b"0":
                    words = ("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", batch)
                    with self._link(node) as link:
                        (reply,) = converse(link, [words])
                        raise_error([reply])
                    cursor, keys = reply
                    yield from keys

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def _list_nodes(self) -> Iterable[Any]:
        """The servers that have keys."""
        return [None]

    def _find_pool(self, node: Any) -> ConnectionPool:
        """The connections to a server."""
        return self._pool

    @contextmanager
    def _link(self, node: Any) -> Iterator[ConnectionInterface]:
        """A connection to a server, for a block; it is closed if the block raises, since replies may be unread."""
        pool = self._find_pool(node)
        link = pool.get_connection()
        try:
            yield link
        except BaseException:
            link.disconnect()
            raise
        finally:
            pool.release(link)

    def _transact(
        self, node: Any, key: bytes, words: Sequence[Words], before: tuple[bytes | None] | None
    ) -> bool:
        """Run a transaction; False if the watched key has another value. Raises StoreError, one of ANY."""
        with self._link(node) as link:
            if before is not None and not watch_value(link, key, before[0]):
                return False
            try:
                replies = converse(link, [*words, *self._after_writes])
            except (*REFUSED, BusyLoadingError):
                raise
            except LOST as error:
                self._refresh()
                raise self._explain_lost_reply(error) from None
        raise_error(replies)  # the first error counts: that the transaction is discarded follows from it
        done = replies[len(words) - 1]
        raise_error(done or [])
        if done is not None and self._after_writes:
            self._check_replicas(node, replies[-1])
        return done is not None

    def _check_replicas(self, node: Any, reached: Any) -> None:
        """Raise StoreError if too few replicas have what was written."""

    def _refresh(self) -> None:
        """Ask a cluster anew which server has which slot."""

    @contextmanager
    def _explained(self, writes: bool = False) -> Iterator[None]:
        """A block whose errors become StoreErrors with a remedy."""
        try:
            yield
        except ANY as error:
            if isinstance(error, (*LOST, ClusterDownError, SlotNotCoveredError)):
                self._refresh()
            if writes and isinstance(error, LOST) and not isinstance(error, (*REFUSED, BusyLoadingError)):
                raise self._explain_lost_reply(error) from None
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> StoreError:
        """One of ANY as an error that says what to do."""
        template = next(text for kinds, text in self.advice if isinstance(error, kinds))
        return StoreError(f"{self._address}: {template.format(error)}")

    def _explain_lost_reply(self, error: Exception) -> StoreError:
        """The error of a connection that was lost after a write was sent."""
        return StoreError(
            f"{self._address}: the connection was lost: {error}; what was sent may or may not have been written: see "
            "what the store holds before you send it again"
        )
