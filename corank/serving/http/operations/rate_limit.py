"""Rates of requests by token, over all workers of a service: a token bucket each, in memory that the workers share.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm): a request of a rate
of r a second moves it by 1/r, and may pass if it lies no further ahead than the burst allows.
"""

import fcntl
import mmap
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

SLOTS = 16_384
"""Buckets that can be in use at the same time; a file of tokens has fewer lines."""
PROBES = 64
"""Slots that are looked at for a bucket."""
LOCK_TRIES = 200
"""A worker that is stopped while it holds the lock must not stop the others: after so many tries they continue."""
_WORD = 8


class Rate(NamedTuple):
    """How many requests may come."""

    per_second: float
    burst: float
    """How many may come at once after a pause."""

    @classmethod
    def of(cls, per_second: float, burst: float | None = None) -> "Rate":
        """A rate, with a burst of a second's requests by default."""
        return cls(per_second, max(1.0, per_second if burst is None else burst))


class RateLimiter:
    """The buckets of a service. A full bucket is as good as none, so its slot is free for another one."""

    def __init__(self, shared: Path | None = None) -> None:
        """`shared` is a file that the workers of the service map, made here if it is missing; None for one process."""
        size = 2 * SLOTS * _WORD
        self._file: int | None = None
        if shared is None:
            memory = mmap.mmap(-1, size)
        else:
            self._file = os.open(shared, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._file, size)
            memory = mmap.mmap(self._file, size)
        view = memoryview(memory)
        self._names, self._full_at = view[: SLOTS * _WORD].cast("Q"), view[SLOTS * _WORD :].cast("d")

    def take(self, name: str, rate: Rate, count: int = 1) -> float:
        """Let requests of a token pass, or not: the seconds after which they may come again; 0 if they pass.

        More requests than the burst pass if the bucket is full, and those that follow wait for all of them.
        """
        now, each = time.monotonic(), 1 / rate.per_second
        locked = self._lock()
        try:
            slot = self._find(int.from_bytes(sha256(name.encode()).digest()[:_WORD]) | 1, now)
            if slot is None:
                return 0.0
            full_at = max(now, self._full_at[slot])
            wait = full_at - now - (rate.burst - min(count, rate.burst)) * each
            if wait > 1e-9:
                return wait
            self._full_at[slot] = full_at + count * each
            return 0.0
        finally:
            if locked:
                assert self._file is not None
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Lock the buckets against other workers, without waiting for long; the kernel unlocks for one that dies."""
        if self._file is None:
            return False
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return True
        return False

    def _find(self, key: int, now: float) -> int | None:
        """The slot of a bucket, which is given one if it has none; None if there is no free one near."""
        free = None
        for n in range(PROBES):
            slot = (key + n) % SLOTS
            name = self._names[slot]
            if name == key:
                return slot
            if free is None and (name == 0 or self._full_at[slot] <= now):
                free = slot
            if name == 0:
                break
        if free is not None:
            self._names[free], self._full_at[free] = key, now
        return free
