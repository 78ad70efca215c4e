"""Deadlines of stages: a run of the runtime that is stopped when its time is over, and how long runs take."""

import heapq
import threading
import time
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


class Watch:
    """Stops runs that are late, from one thread of its own. Safe to share between threads."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, onnxruntime.RunOptions]] = []
        self._number = count()
        self._condition = threading.Condition()
        self._wakes = 0.0
        threading.Thread(target=self._watch, name="corank-watch", daemon=True).start()

    @contextmanager
    def until(self, moment: float) -> Iterator[onnxruntime.RunOptions]:
        """Options by which a run ends, with an error, at `moment` of `time.perf_counter`."""
        options = onnxruntime.RunOptions()
        entry = (moment, next(self._number), options)
        with self._condition:
            heapq.heappush(self._due, entry)
            if moment < self._wakes:
                self._condition.notify()
        try:
            yield options
        finally:
            with self._condition:
                if entry in self._due:
                    self._due.remove(entry)
                    heapq.heapify(self._due)

    def _watch(self) -> None:
        with self._condition:
            while True:
                now = time.perf_counter()
                while self._due and self._due[0][0] <= now:
                    heapq.heappop(self._due)[2].terminate = True
                self._wakes = self._due[0][0] if self._due else float("inf")
                self._condition.wait(self._due[0][0] - now if self._due else None)


class Pace:
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
