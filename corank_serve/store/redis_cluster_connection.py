"""Connections to the servers of a Redis or Valkey Cluster.

redis-py's client of a cluster knows which server has which slot, and keeps the connections. Commands are sent here: its
own pipelines send a command again whose reply was lost, cannot wait for replicas on the connection that wrote, and fail
on an ASK that names a server without slots, as a new one is. It also closes no pool, and forgets servers: the pools are
kept here, to be closed.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from redis.cluster import REDIS_ALLOWED_KEYS, ClusterNode, RedisCluster
from redis.connection import ConnectionInterface, ConnectionPool, parse_url
from redis.exceptions import AskError, MovedError, TryAgainError
from redis.maint_notifications import MaintNotificationsConfig

from corank.core.errors import StoreError
from corank_serve.store.redis_connection import (
    ANY,
    CLUSTER_ADVICE,
    CONNECT_SECONDS,
    LOST,
    REPLY_SECONDS,
    Command,
    RedisConnection,
    Reply,
    Words,
    converse,
    raise_error,
    read_reply,
    send_commands,
)

REDIRECTIONS = (AskError, TryAgainError)
"""Errors of a command that was not carried out, since its slot was moved or is being moved."""
REPLICATION = 0.8
"""Replicas must have what was written in this share of the time of a reply."""
MOVING_SECONDS, PAUSE_SECONDS = 20.0, 0.05
"""A command is sent again for so long, and after such a pause, while its slot is being moved."""


def write_any(link: ConnectionInterface, keys: Iterable[bytes]) -> None:
    """Write the first of some keys whose slot the server has and does not move, for a moment. Raises a redirection."""
    error = None
    for key in keys:
        (error,) = converse(link, [("SET", key, b"", "PX", 1)])
        if not isinstance(error, REDIRECTIONS):
            break
    raise_error([error])


class ClusterConnection(RedisConnection):
    """A client of a cluster, whose errors are StoreErrors. Safe to share between threads.

    A command that a server redirects, since its slot was moved or is being moved, was not carried out: it is sent
    again. Nothing else is. After a broken connection the next call goes by what the cluster says of its servers then.
    """

    advice = CLUSTER_ADVICE

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
        self._pools = set[ConnectionPool]()
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
            self._keep_pools(first)
            self._disconnect()
            raise self._explain(cause) from None
        self._keep_pools([*first, *self._cluster.get_nodes()])
        seconds = float(self._cluster.get_connection_kwargs()["socket_timeout"])
        self._wait_ms = int(seconds * REPLICATION * 1000)
        if replicas:
            self._after_writes = [("WAIT", replicas, self._wait_ms)]

    def run(self, commands: Sequence[Command], writes: bool = False) -> list[Reply]:
        """As `RedisConnection.run`: those of a server in their order, those of several servers in any."""
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
        """As `RedisConnection.transact`, on the server that has the key's slot.

        While the slot is being moved, the transaction waits: what it writes may be on either server.
        """
        words, due = [("MULTI",), *commands, ("EXEC",)], time.monotonic() + MOVING_SECONDS
        while True:
            with self._explained():
                node = self._cluster.get_node_from_key(key)
                try:
                    return self._transact(node, key, words, before)
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
                        (reached,) = converse(link, [("WAIT", 1, self._wait_ms)])
                        self._check_replicas(node, reached, 1)

    def close(self) -> None:
        """Close all connections."""
        self._cluster.close()
        self._disconnect()

    def _list_nodes(self) -> Iterable[ClusterNode]:
        self._discover()
        nodes: list[ClusterNode] = self._cluster.get_primaries()
        return nodes

    def _find_pool(self, node: ClusterNode) -> ConnectionPool:
        pool: ConnectionPool = self._cluster.get_redis_connection(node).connection_pool
        self._pools.add(pool)
        return pool

    def _keep_pools(self, nodes: Iterable[ClusterNode]) -> None:
        """Remember the pools of servers."""
        clients = [node.redis_connection for node in nodes]
        self._pools |= {client.connection_pool for client in clients if client is not None}

    def _disconnect(self) -> None:
        for pool in self._pools:
            pool.disconnect()

    def _check_replicas(self, node: ClusterNode, reached: Any, wanted: int | None = None) -> None:
        raise_error([reached])
        wanted = self._replicas if wanted is None else wanted
        if reached < wanted:
            raise StoreError(
                f"{self._address}: {node.name} has written it, and {reached} of {wanted} replicas have it too: it may "
                "be lost when that server fails; see to its replicas, then try again"
            )

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
                send_commands(link, [*words, *(self._after_writes if writes else ())])
            for node, link in links.items():
                for n in numbers[node]:
                    if n in asking:
                        read_reply(link)
                    replies[n] = Reply(node, read_reply(link))
                if writes and self._replicas:
                    self._check_replicas(node, read_reply(link))
        return replies

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

    def _refresh(self) -> None:
        """Ask the cluster which server has which slot."""
        with suppress(*ANY):  # the next call tells
            self._discover()

    def _discover(self) -> None:
        """As `_refresh`. Raises one of ANY."""
        self._cluster.nodes_manager.initialize(disconnect_startup_nodes_pools=False)
        self._keep_pools(self._cluster.get_nodes())
