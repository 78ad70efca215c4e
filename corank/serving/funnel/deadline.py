"""Deadlines of stages: a run of the runtime that is stopped when its time is over, and how long runs take."""

import heapq
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import onnxruntime

SAMPLES = 512
"""Durations that a pace is taken of."""
FEW = 32
"""Before there are so many, nothing is expected; and the pace is taken anew after so many more."""


class _Due:
    """What a watch's thread looks after; not the watch itself, which would then never end."""

    def __init__(self) -> None:
        self.runs: list[tuple[float, int, onnxruntime.RunOptions]] = []
        self.changed = threading.Condition()
        self.wakes = 0.0
        self.over = False

    def watch(self) -> None:
        with self.changed:
            while not self.over:
                now = time.perf_counter()
                while self.runs and self.runs[0][0] <= now:
                    heapq.heappop(self.runs)[2].terminate = True
                self.wakes = self.runs[0][0] if self.runs else math.inf
                self.changed.wait(self.runs[0][0] - now if self.runs else None)

    def end(self) -> None:
        with self.changed:
            self.over = True
            self.changed.notify()


class DeadlineTimer:
    """Stops runs that are late, from a thread that ends with it. Safe to share between threads."""

    def __init__(self) -> None:
        self._due = _Due()
        self._number = count()
        threading.Thread(target=self._due.watch, name="corank-watch", daemon=True).start()
        weakref.finalize(self, self._due.end)

    @contextmanager
    def until(self, moment: float) -> Iterator[onnxruntime.RunOptions]:
        """Options by which a run ends, with an error, at `moment` of `time.perf_counter`."""
        options = onnxruntime.RunOptions()
        due, entry = self._due, (moment, next(self._number), options)
        with due.changed:
            heapq.heappush(due.runs, entry)
            if moment < due.wakes:
                due.changed.notify()
        try:
            yield options
        finally:
            with due.changed:
                if entry in due.runs:
                    due.runs.remove(entry)
                    heapq.heapify(due.runs)


class LatencyTracker:
    """How long something takes: the 99th percentile of its last durations, in seconds, 0 while too few are known."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=SAMPLES)
        self._since = 0
        self.p99 = 0.0

    def took(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._counted()

    def skipped(self) -> None:
        """Not run, since it would have been late: what it was slow by is forgotten by and by, or it never ran again."""
        if self._seconds:
            self._seconds.popleft()
        self._counted()

    def _counted(self) -> None:
        self._since += 1
        if len(self._seconds) < FEW:
            self.p99 = 0.0
        elif self._since >= FEW or not self.p99:
            self._since, self.p99 = 0, float(np.percentile(self._seconds, 99))
