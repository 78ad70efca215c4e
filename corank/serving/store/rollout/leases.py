"""Leases: which versions services hold with the live one, so that `prune` leaves them.

    served              "HOST ROLE VERSION" → Lease

A service renews its leases while it runs, by the clock of the store; one that ended lets them expire.
"""

import socket
from collections.abc import Iterable

import msgspec

from corank.bundle.checks.content_name import is_content_name
from corank.core.time import format_time
from corank.serving.store.base import Store
from corank.serving.store.store_clock import store_time

LEASES = "served"
LEASE_SECONDS = 900.0
RENEW_SECONDS = 60.0
LEASE_BYTES = 1024
"""Largest lease."""


class Lease(msgspec.Struct, frozen=True):
    """That a service holds a version."""

    version: str
    role: str
    """`canary` or `shadow`."""
    host: str
    until: int
    """ms UTC, by the store's clock."""

    def describe(self) -> str:
        """Who holds the version, in words."""
        return f"{self.host} serves it as {self.role}, by its lease until {format_time(self.until)}"


def write_lease(store: Store, version: str, role: str) -> None:
    """Note that this machine holds a version for the next minutes. Raises StoreError if nothing can be written."""
    host = socket.gethostname()[:200]
    lease = Lease(version, role, host, store_time(store) + round(LEASE_SECONDS * 1e3))
    store.put({LEASES: [(f"{host} {role} {version}".encode()[:500], msgspec.json.encode(lease))]})


def read_leases(store: Store) -> tuple[dict[str, Lease], list[bytes]]:
    """Read the leases that have not expired, by version, and the keys of all others. Raises StoreError."""
    now, leases, expired = store_time(store), dict[str, Lease](), list[bytes]()
    for key, raw in _entries(store):
        lease = _decode(raw)
        # one whose end lies further ahead than any is given would never expire
        if lease is None or not now < lease.until <= now + 2 * LEASE_SECONDS * 1e3:
            expired.append(key)
        else:
            leases[lease.version] = lease
    return leases, expired


def _entries(store: Store) -> Iterable[tuple[bytes, bytes]]:
    return (pair for pairs in store.scan(LEASES) for pair in pairs)


def _decode(raw: bytes) -> Lease | None:
    """Decode a lease; None if it is damaged, since anybody with the store may have written it."""
    if len(raw) > LEASE_BYTES:
        return None
    try:
        lease = msgspec.json.decode(raw, type=Lease)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    printable = all(text.isprintable() for text in (lease.role, lease.host))
    return lease if is_content_name(lease.version) and printable else None
