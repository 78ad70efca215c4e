"""Claims: the right to write the tables of a version, or to remove them, which one process at a time has.

A claim lies in the head. Its holder raises the claim's beat every few seconds. A claim is taken over if its process is
seen to be dead on this machine, or if its beat stands still for long, by the clock of the process that waits alone:
clocks of machines are never compared. Who lost its claim meanwhile cannot make the version live.

A lease tells that a service is pinned to a version, so that `prune` leaves it. A service renews its lease while it
runs, by the clock of the store; one that ended lets it expire.

    served              "HOST VERSION" → Lease
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from corank.bundle.signatures import is_content_name
from corank.core.errors import BusyError, StoreError
from corank.core.reports import Report
from corank.core.time import format_time, now_ms
from corank_serve.store.base import Store
from corank_serve.store.live_version import Claim, StoreState

BEAT_SECONDS = 2.0
"""Between two beats."""
STALE_SECONDS = 20.0
"""A claim whose beat has stood still for so long is taken over."""
POLL_SECONDS = 0.2


@contextmanager
def claim_version(
    store: Store, version: str, command: str, report: Report = lambda line: None, wait: bool = True
) -> Iterator[str]:
    """Hold the claim of a version within a block.

    Args:
        store: the store.
        version: its name.
        command: what is done, for the messages of others.
        report: receives who is waited for.
        wait: until the claim is free; else BusyError is raised once its holder is seen to be at work.

    Yields:
        The claim's token, which `check_claim` takes.

    Raises StoreError, BusyError.
    """
    claim = Claim(
        holder=f"corank {command} (process {os.getpid()} on {socket.gethostname()})"[:256],
        token=os.urandom(8).hex(),
        since=now_ms(),
        process=_identify_process(os.getpid()) or "",
    )
    _take(store, version, claim, report, wait)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(store, version, claim.token, done), daemon=True)
    beating.start()
    try:
        yield claim.token
    finally:
        done.set()
        beating.join()
        with suppress(StoreError):  # it is taken over once its beat stops
            _change(store, version, claim.token, lambda state, _: state.without_claim(version))


def check_claim(store: Store, state: StoreState, version: str, token: str) -> None:
    """Raise StoreError if a claim was lost to another process."""
    claim = state.claims.get(version)
    if claim is None or claim.token != token:
        by = f"by {claim.holder}" if claim else "meanwhile"
        raise StoreError(f"{store.address}: {version} was taken over {by}; try again")


def _take(store: Store, version: str, claim: Claim, report: Report, wait: bool) -> None:
    seen: tuple[str, int] | None = None
    since, reported = time.monotonic(), False
    while True:
        raw, state = StoreState.read(store)
        rival = state.claims.get(version)
        stale = rival is not None and (rival.token, rival.beat) == seen
        if rival is None or _is_dead(rival) or (stale and time.monotonic() - since > STALE_SECONDS):
            if store.swap(raw, state.with_claim(version, claim).to_bytes()):
                return
            continue
        if seen is not None and not stale and not wait:
            raise BusyError(f"{store.address}: {version} is held by {_describe_holder(rival)}")
        if not reported and wait:
            report(f"waiting for {_describe_holder(rival)}, which holds {version}")
            reported = True
        if not stale:
            seen, since = (rival.token, rival.beat), time.monotonic()
        time.sleep(POLL_SECONDS)


def _describe_holder(claim: Claim) -> str:
    return f"{claim.holder}, since {format_time(claim.since)}"


def _beat(store: Store, version: str, token: str, done: threading.Event) -> None:
    """Raise the beat of a claim until it is done."""
    while not done.wait(BEAT_SECONDS):
        with suppress(StoreError):  # the store may be back for the next beat
            _change(store, version, token, lambda state, claim: state.with_claim(version, claim.next_beat()))


def _change(
    store: Store, version: str, token: str, change: Callable[[StoreState, Claim], StoreState]
) -> None:
    """Change the head as long as a claim is held."""
    while True:
        raw, state = StoreState.read(store)
        claim = state.claims.get(version)
        if claim is None or claim.token != token or store.swap(raw, change(state, claim).to_bytes()):
            return


def _is_dead(claim: Claim) -> bool:
    """Whether the process of a claim ran on this machine and has ended."""
    kernel, _, rest = claim.process.partition(" ")
    pid, _, _ = rest.partition(" ")
    ours = _identify_process(os.getpid())
    if ours is None or kernel != ours.partition(" ")[0] or not pid.isascii() or not pid.isdigit():
        return False
    return _identify_process(int(pid)) != claim.process


def _identify_process(pid: int) -> str | None:
    """Kernel and name space, pid, and start of a running process; None if it has ended, or there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").readlink()
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return None
    return None if fields[0] in ("Z", "X") else f"{boot}/{space} {pid} {fields[19]}"


def store_time(store: Store) -> int:
    """Return the time by a store's own clock, or by this machine's if it has none, ms UTC. Raises StoreError."""
    now: int = getattr(store, "read_clock", now_ms)()
    return now


LEASES = "served"
LEASE_SECONDS = 900.0
RENEW_SECONDS = 60.0
LEASE_BYTES = 1024
"""Largest lease."""


class Lease(msgspec.Struct, frozen=True):
    """That a service is pinned to a version."""

    version: str
    host: str
    until: int
    """ms UTC, by the store's clock."""

    def describe(self) -> str:
        """Who holds the version, in words."""
        return f"{self.host} serves it (--version), by its lease until {format_time(self.until)}"


def write_lease(store: Store, version: str) -> None:
    """Note that this machine holds a version for the next minutes. Raises StoreError if nothing can be written."""
    host = socket.gethostname()[:200]
    lease = Lease(version, host, store_time(store) + round(LEASE_SECONDS * 1e3))
    store.put({LEASES: [(f"{host} {version}".encode()[:500], msgspec.json.encode(lease))]})


def read_leases(store: Store) -> tuple[dict[str, Lease], list[bytes]]:
    """Read the leases that have not expired, by version, and the keys of all others. Raises StoreError."""
    now, leases, expired = store_time(store), dict[str, Lease](), list[bytes]()
    for key, raw in (pair for pairs in store.scan(LEASES) for pair in pairs):
        lease = _decode(raw)
        # one whose end lies further ahead than any is given would never expire
        if lease is None or not now < lease.until <= now + 2 * LEASE_SECONDS * 1e3:
            expired.append(key)
        else:
            leases[lease.version] = lease
    return leases, expired


def _decode(raw: bytes) -> Lease | None:
    """Decode a lease; None if it is damaged, since anybody with the store may have written it."""
    if len(raw) > LEASE_BYTES:
        return None
    try:
        lease = msgspec.json.decode(raw, type=Lease)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return lease if is_content_name(lease.version) and lease.host.isprintable() else None
