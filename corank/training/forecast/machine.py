"""How fast this machine is, measured for a twentieth of a second by numpy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

ROUNDS = 5
SMALL, WIDTH = 64, 256
ROWS, TABLE = 20_000, 1 << 19


@dataclass(frozen=True)
class Machine:
    """Seconds of what trainings are made of."""

    operation: float
    """Of a small operation of numpy, called from Python."""
    multiply_add: float
    """Of a multiplication and addition in a product of fp32 matrices."""
    element: float
    """Of gathering, scaling and adding a number of a table's row."""


@cache
def measure_machine(clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Measure each by the fastest of some rounds, which others that compute slow least, in the usual number of threads.

    Args:
        clock: in seconds.
    """
    rng = np.random.default_rng(0)
    small = rng.random((4, SMALL), dtype=np.float32)
    left, right = (rng.random((rows, WIDTH), dtype=np.float32) for rows in (8 * WIDTH, WIDTH))
    table = np.zeros((TABLE // 16, 16), dtype=np.float32)
    chosen = rng.integers(0, len(table), ROWS)

    def operations() -> None:
        for _ in range(200):
            np.add(small, small)

    def gather() -> None:
        rows = table[chosen]
        rows *= 0.5
        rows += 1

    return Machine(
        _seconds(operations, clock) / 200,
        _seconds(lambda: left @ right, clock) / (len(left) * WIDTH * WIDTH),
        _seconds(gather, clock) / (ROWS * 16),
    )


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    run()  # the first call prepares memory and threads
    rounds = []
    for _ in range(ROUNDS):
        began = clock()
        run()
        rounds.append(clock() - began)
    return min(rounds)
