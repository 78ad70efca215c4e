"""What stops a stage that runs late, and foresees that one would."""

import heapq
import itertools
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnxruntime

SAMPLES = 512
"""Durations that a percentile is taken of."""
FEW = 32
"""With fewer durations there is no percentile; it is taken again after as many new ones."""


class _PendingRuns:
    """What the timer's thread holds; not the timer itself, which could then never be collected."""

    def __init__(self) -> None:
        self.runs: list[tuple[float, int, onnxruntime.RunOptions]] = []
        """A heap by deadline."""
        self.changed = threading.Condition()
        self.wakes_at = 0.0
        self.closed = False

    def watch(self) -> None:
        """Stop runs whose deadline has passed, until closed."""
        with self.changed:
            while not self.closed:
                now = time.perf_counter()
                while self.runs and self.runs[0][0] <= now:
                    heapq.heappop(self.runs)[2].terminate = True
                self.wakes_at = self.runs[0][0] if self.runs else math.inf
                self.changed.wait(self.runs[0][0] - now if self.runs else None)

    def close(self) -> None:
        """End the thread."""
        with self.changed:
            self.closed = True
            self.changed.notify()


class DeadlineTimer:
    """Stops late runs from a thread, which ends with the timer. Safe to share between threads."""

    def __init__(self) -> None:
        self._pending = _PendingRuns()
        self._number = itertools.count()
        threading.Thread(target=self._pending.watch, name="corank-deadlines", daemon=True).start()
        weakref.finalize(self, self._pending.close)

    @contextmanager
    def until(self, moment: float) -> Iterator[onnxruntime.RunOptions]:
        """Options for a run that fails if it is not done at a moment of `time.perf_counter`."""
        options = onnxruntime.RunOptions()
        pending, entry = self._pending, (moment, next(self._number), options)
        with pending.changed:
            heapq.heappush(pending.runs, entry)
            if moment < pending.wakes_at:
                pending.changed.notify()
        try:
            yield options
        finally:
            with pending.changed:
                if entry in pending.runs:
                    pending.runs.remove(entry)
                    heapq.heapify(pending.runs)


class LatencyTracker:
    """The 99th percentile of recent durations, in seconds; 0 while there are too few."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._since_update = 0
        self.p99 = 0.0

    def record(self, seconds: float) -> None:
        """Record a duration."""
        self._seconds.append(seconds)
        self._update()

    def record_skip(self) -> None:
        """Record a skipped run: drop the oldest duration, so that one slow spell does not disable a stage for good."""
        if self._seconds:
            self._seconds.popleft()
        self._update()

    def _update(self) -> None:
        self._since_update += 1
        if len(self._seconds) < FEW:
            self.p99 = 0.0
        elif self._since_update >= FEW or not self.p99:
            self._since_update, self.p99 = 0, float(np.percentile(self._seconds, 99))
