"""Connections to the servers of a Redis or Valkey Cluster.

redis-py's client of a cluster knows which server has which slot, and keeps the connections. Commands are sent here: its
own pipelines send a command again whose reply was lost, cannot wait for replicas on the connection that wrote, and fail
on an ASK that names a server without slots, as a new one is.

Commands and replies of one connection to a server; an error that the server sends is a reply.

The connections to a cluster's servers, to be closed: redis-py closes no pool of a cluster, and forgets servers.

How a write waits until replicas have it.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import ConnectionInterface, ConnectionPool, parse_url
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.maint_notifications import MaintNotificationsConfig

from corank.core.errors import StoreError
from corank.serving.store.redis_connection import (
    ANY,
    CLUSTER_ADVICE,
    CONNECT_SECONDS,
    LOST,
    REFUSED,
    REPLY_SECONDS,
    explain_error,
    explain_lost_reply,
)

Words: TypeAlias = tuple[bytes | str | int, ...]
"""A command."""

REDIRECTIONS = (AskError, TryAgainError)
"""Errors of a command that was not carried out, since its slot was moved or is being moved."""


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


def write_any(link: ConnectionInterface, keys: Iterable[bytes]) -> None:
    """Write the first of some keys whose slot the server has and does not move, for a moment. Raises a redirection."""
    error = None
    for key in keys:
        (error,) = converse(link, [("SET", key, b"", "PX", 1)])
        if not isinstance(error, REDIRECTIONS):
            break
    raise_error([error])


class ClusterPools:
    """A pool for each server that was ever connected to."""

    def __init__(self) -> None:
        self._pools: set[ConnectionPool] = set()

    def keep(self, nodes: Iterable[ClusterNode]) -> None:
        """Remember the pools of servers."""
        clients = [node.redis_connection for node in nodes]
        self._pools |= {client.connection_pool for client in clients if client is not None}

    def disconnect(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            pool.disconnect()


REPLICATION = 0.8
"""Replicas must have what was written in this share of the time of a reply."""


class ReplicaWait:
    """The command WAIT, and what its reply must be."""

    def __init__(self, address: str, reply_seconds: float) -> None:
        self._address, self._ms = address, int(reply_seconds * REPLICATION * 1000)

    def command(self, replicas: int) -> Words:
        """The command that waits until replicas of a server have what its connection wrote."""
        return ("WAIT", replicas, self._ms)

    def check(self, node: ClusterNode, reached: Any, wanted: int) -> None:
        """Raise StoreError if too few replicas have what was written."""
        raise_error([reached])
        if reached < wanted:
            raise StoreError(
                f"{self._address}: {node.name} has written it, and {reached} of {wanted} replicas have it too: it may "
                "be lost when that server fails; see to its replicas, then try again"
            )


MOVING_SECONDS, PAUSE_SECONDS = 20.0, 0.05
"""A command is sent again for so long, and after such a pause, while its slot is being moved."""

Command: TypeAlias = tuple[bytes, Words]
"""A key, whose slot has the command, and the command."""


class Reply(NamedTuple):
    """A server's answer to a command."""

    node: ClusterNode
    value: Any


class ClusterConnection:
    """A client of a cluster, whose errors are StoreErrors. Safe to share between threads.

    A command that a server redirects, since its slot was moved or is being moved, was not carried out: it is sent
    again. Nothing else is. After a broken connection the next call goes by what the cluster says of its servers then.
    """

    def __init__(
        self, url: str, others: Sequence[tuple[str, int]], address: str, password: str | None, replicas: int
    ) -> None:
        """Connect to a cluster.

        Args:
            url: of one server, with redis-py's options.
            others: host and port of further servers, which tell of the cluster if that one does not answer.
            address: the URL without password, for messages.
            password: if the URL has none.
            replicas: how many replicas must have what is written.

        Raises StoreError; TypeError or ValueError if the URL or its options are malformed.
        """
        if parse_url(url).keys() - {*REDIS_ALLOWED_KEYS}:
            raise ValueError  # the client of a cluster would pass over it
        self._address, self._replicas = address, replicas
        self._newcomers: dict[tuple[str, int], ClusterNode] = {}
        self._pools = ClusterPools()
        first = [ClusterNode(host, port) for host, port in others]
        try:
            self._cluster = RedisCluster(
                url=url,
                startup_nodes=first,  # to which the client appends that of the URL
                password=password,
                require_full_coverage=False,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=REPLY_SECONDS,
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
            )
        except ANY as error:
            # the client of a cluster wraps what a server answered
            cause = error.__cause__ if isinstance(error.__cause__, LOST) else error
            self._pools.keep(first)
            self._pools.disconnect()
            raise explain_error(address, cause, CLUSTER_ADVICE) from None
        self._pools.keep([*first, *self._cluster.get_nodes()])
        seconds = float(self._cluster.get_connection_kwargs()["socket_timeout"])
        self._waiting = ReplicaWait(address, seconds)
        self._after_writes: list[Words] = [self._waiting.command(replicas)] if replicas else []

    def run(self, commands: Sequence[Command], writes: bool = False) -> list[Reply]:
        """Carry out commands, those of a server in their order, those of several servers in any.

        Args:
            commands: to carry out; each is on one key, and may be carried out twice without harm.
            writes: whether they write; then replicas have it, as many as they must, before this returns.

        Returns their replies. Raises StoreError.
        """
        replies: dict[int, Reply] = {}
        left, asking = dict(enumerate(commands)), dict[int, ClusterNode]()
        due = time.monotonic() + MOVING_SECONDS
        with self._explained(writes):
            while left:
                received = self._exchange(left, asking, writes)
                redirected = {
                    n: reply for n, reply in received.items() if isinstance(reply.value, REDIRECTIONS)
                }
                done = {n: reply for n, reply in received.items() if n not in redirected}
                raise_error(reply.value for reply in done.values())
                replies |= done
                targets = {n: self._follow(reply, due) for n, reply in redirected.items()}
                asking = {n: node for n, node in targets.items() if node is not None}
                left = {n: commands[n] for n in redirected}
        return [replies[n] for n in range(len(commands))]

    def transact(
        self, key: bytes, commands: Iterable[Words], before: tuple[bytes | None] | None = None
    ) -> bool:
        """Carry out commands in one transaction, on the server that has a key's slot.

        While the slot is being moved, the transaction waits: what it writes may be on either server.

        Args:
            key: a key.
            commands: the slot of all their keys is that of `key`.
            before: the value that the key must have, alone in a tuple; None if it may have any.

        Returns False, with nothing written, if the key has another value. Raises StoreError.
        """
        words, due = [("MULTI",), *commands, ("EXEC",)], time.monotonic() + MOVING_SECONDS
        while True:
            with self._explained():
                node = self._cluster.get_node_from_key(key)
                try:
                    with self._link(node) as link:
                        if before is not None and not watch_value(link, key, before[0]):
                            return False
                        return self._execute(node, link, words)
                except REDIRECTIONS as error:
                    if self._follow(Reply(node, error), due):
                        time.sleep(PAUSE_SECONDS)

    def await_replicas(self, keys: Iterable[bytes]) -> None:
        """Wait until a replica of each server has all that was written, where one is connected.

        Args:
            keys: that are written for a moment: WAIT is about what its own connection wrote, and all before that.

        Raises StoreError.
        """
        with self._explained():
            keys_of: defaultdict[ClusterNode, list[bytes]] = defaultdict(list)
            for key in keys:
                keys_of[self._cluster.get_node_from_key(key)].append(key)
            for node, node_keys in keys_of.items():
                with self._link(node) as link:
                    (role,) = converse(link, [("ROLE",)])
                    raise_error([role])
                    if role[2]:
                        write_any(link, node_keys)
                        (reached,) = converse(link, [self._waiting.command(1)])
                        self._waiting.check(node, reached, 1)

    def scan_keys(self, pattern: bytes, batch: int) -> Iterator[bytes]:
        """Iterate over the keys of all servers that match a pattern; some may come twice.

        A key whose slot is moved meanwhile may be left out. Raises StoreError.
        """
        with self._explained():
            self._discover()
            for node in self._cluster.get_primaries():
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
        self._cluster.close()
        self._pools.disconnect()

    def _exchange(
        self, commands: Mapping[int, Command], asking: Mapping[int, ClusterNode], writes: bool
    ) -> dict[int, Reply]:
        """Send each command to its server, all of them before a reply is read, and read the replies."""
        numbers: defaultdict[ClusterNode, list[int]] = defaultdict(list)
        for n, (key, _) in commands.items():
            numbers[asking.get(n) or self._cluster.get_node_from_key(key)].append(n)
        replies: dict[int, Reply] = {}
        with ExitStack() as stack:
            links = {node: stack.enter_context(self._link(node)) for node in numbers}
            for node, link in links.items():
                words: list[Words] = []
                for n in numbers[node]:
                    words += [*[("ASKING",)] * (n in asking), commands[n][1]]
                send_commands(link, words + (self._after_writes if writes else []))
            for node, link in links.items():
                for n in numbers[node]:
                    if n in asking:
                        read_reply(link)
                    replies[n] = Reply(node, read_reply(link))
                if writes and self._replicas:
                    self._waiting.check(node, read_reply(link), self._replicas)
        return replies

    def _execute(self, node: ClusterNode, link: ConnectionInterface, words: Sequence[Words]) -> bool:
        """Run a transaction; False if a watched key has changed. Raises a redirection, StoreError."""
        try:
            replies = converse(link, [*words, *self._after_writes])
        except (*REFUSED, BusyLoadingError):
            raise
        except LOST as error:
            self._refresh()
            raise explain_lost_reply(self._address, error) from None
        raise_error(replies)  # the first error counts: that the transaction is discarded follows from it
        done = replies[len(words) - 1]
        raise_error(done or [])
        if done is not None and self._replicas:
            self._waiting.check(node, replies[-1], self._replicas)
        return done is not None

    def _follow(self, reply: Reply, due: float) -> ClusterNode | None:
        """Follow a redirection, after a pause if the server could not tell; raise it if it is due.

        Returns the server that takes the command after ASKING, since it imports the slot; None if none needs it.
        """
        error = reply.value
        if time.monotonic() > due:
            raise error
        if isinstance(error, TryAgainError):
            time.sleep(PAUSE_SECONDS)
            return None
        error.host = error.host or reply.node.host
        if isinstance(error, MovedError):
            self._cluster.nodes_manager.move_slot(error)
            return None
        address = (error.host, error.port)
        return self._cluster.get_node(*address) or self._newcomers.setdefault(address, ClusterNode(*address))

    @contextmanager
    def _link(self, node: ClusterNode) -> Iterator[ConnectionInterface]:
        """A connection to a server, for a block; it is closed if the block raises, since replies may be unread."""
        pool = self._cluster.get_redis_connection(node).connection_pool
        self._pools.keep([node])
        link = pool.get_connection()
        try:
            yield link
        except BaseException:
            link.disconnect()
            raise
        finally:
            pool.release(link)

    @contextmanager
    def _explained(self, writes: bool = False) -> Iterator[None]:
        """A block whose errors become StoreErrors with a remedy."""
        try:
            yield
        except ANY as error:
            if isinstance(error, (*LOST, ClusterDownError, SlotNotCoveredError)):
                self._refresh()
            if writes and isinstance(error, LOST) and not isinstance(error, (*REFUSED, BusyLoadingError)):
                raise explain_lost_reply(self._address, error) from None
            raise explain_error(self._address, error, CLUSTER_ADVICE) from None

    def _refresh(self) -> None:
        """Ask the cluster which server has which slot."""
        with suppress(*ANY):  # the next call tells
            self._discover()

    def _discover(self) -> None:
        """As `_refresh`. Raises one of ANY."""
        self._cluster.nodes_manager.initialize(disconnect_startup_nodes_pools=False)
        self._pools.keep(self._cluster.get_nodes())
