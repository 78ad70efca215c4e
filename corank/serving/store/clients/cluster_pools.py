"""The connections to a cluster's servers, to be closed: redis-py closes no pool of a cluster, and forgets servers."""

from collections.abc import Iterable

from redis.cluster import ClusterNode
from redis.connection import ConnectionPool


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
