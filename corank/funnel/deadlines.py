"""What stops a stage that runs late, and foresees that one would."""

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import onnxruntime

SAMPLES = 512
"""Durations that a percentile is taken of."""
FEW = 32
"""With fewer durations there is no percentile; it is taken again after as many new ones."""


class DeadlineTimer:
    """Stops late runs from a thread. Safe to share between threads."""

    def __init__(self) -> None:
        self._runs: list[tuple[float, int, onnxruntime.RunOptions]] = []
        """A heap by deadline."""
        self._number, self._wakes_at = itertools.count(), 0.0
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="corank-deadlines", daemon=True).start()

    @contextmanager
    def until(self, moment: float) -> Iterator[onnxruntime.RunOptions]:
        """Options for a run that fails if it is not done at a moment of `time.perf_counter`."""
        options = onnxruntime.RunOptions()
        entry = moment, next(self._number), options
        with self._changed:
            heapq.heappush(self._runs, entry)
            if moment < self._wakes_at:
                self._changed.notify()
        try:
            yield options
        finally:
            with self._changed:
                if entry in self._runs:
                    self._runs.remove(entry)
                    heapq.heapify(self._runs)

    def _watch(self) -> None:
        """Stop runs whose deadline has passed."""
        with self._changed:
            while True:
                now = time.perf_counter()
                while self._runs and self._runs[0][0] <= now:
                    heapq.heappop(self._runs)[2].terminate = True
                self._wakes_at = self._runs[0][0] if self._runs else math.inf
                self._changed.wait(self._runs[0][0] - now if self._runs else None)


@cache
def timer_of(process: int) -> DeadlineTimer:
    """The timer of all funnels of a process, which is this one: threads do not survive a fork."""
    return DeadlineTimer()


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
