"""How a write waits until replicas have it."""

from typing import Any

from redis.cluster import ClusterNode

from corank.core.errors import StoreError
from corank.serving.store.clients.redis_link import Words, raise_error

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
