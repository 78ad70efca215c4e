"""Inclusion probabilities of softened draws: how long a request waits for them, and how exact they are.

Logits are normal numbers times a spread. The reference of `error` is the same sum with three times as many nodes and
edges of a thousandth; `sum` is how far the probabilities are from k in all.
"""

import argparse
from time import thread_time

import numpy as np

from benchmarks import harness
from corank.core import inclusion
from corank.core.types import Doubles

SIZES = ((5, 1), (30, 1), (60, 10), (100, 10), (100, 50), (200, 20), (500, 1), (500, 50))
SPREADS = (0.01, 1.0, 10.0, 50.0)
TIMES = 5


def refined(logits: Doubles, k: int) -> Doubles:
    """The probabilities by a finer sum."""
    before = inclusion.FEWEST, inclusion.PER_UNIT, inclusion.EDGE
    inclusion.FEWEST, inclusion.PER_UNIT, inclusion.EDGE = 3 * before[0], 3 * before[1], before[2] / 1000
    try:
        return inclusion.inclusion_probabilities(logits, k)
    finally:
        inclusion.FEWEST, inclusion.PER_UNIT, inclusion.EDGE = before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rng, table = np.random.default_rng(0), dict[str, harness.Figure]()
    error = total = slowest = 0.0
    for n, k in SIZES:
        for spread in SPREADS:
            logits = rng.normal(size=n) * spread
            seconds = []
            for _ in range(TIMES):
                since = thread_time()
                found = inclusion.inclusion_probabilities(logits, k)
                seconds.append(thread_time() - since)
            table[f"ms.{n}.{k}.{spread:g}"] = 1e3 * min(seconds)
            slowest = max(slowest, 1e3 * min(seconds))
            error = max(error, float(np.abs(found / refined(logits, k) - 1).max()))
            total = max(total, abs(float(found.sum()) - k))
    table |= {"slowest": slowest, "error": error, "sum": total}
    harness.report("inclusion", table, {"error": ("<=", 1e-10), "sum": ("<=", 5e-9)}, arguments.json)


if __name__ == "__main__":
    main()
