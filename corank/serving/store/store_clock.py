"""The time by which those who write to a store agree."""

from typing import Protocol, runtime_checkable

from corank.core.time import now_ms
from corank.serving.store.base import Store


@runtime_checkable
class ClockedStore(Protocol):
    """A store that has a clock of its own, which all who write to it share."""

    def read_clock(self) -> int:
        """Return the time of the store, ms UTC. Raises StoreError."""


def store_time(store: Store) -> int:
    """Return the time by a store's own clock, or by this machine's if it has none, ms UTC. Raises StoreError."""
    return store.read_clock() if isinstance(store, ClockedStore) else now_ms()
