"""Milliseconds of an exact search for 1,000 of N items; reference: the product of the whole matrix, and no selection.

One thread, vectors of 32 numbers. `half` and `hundredth` let so many items pass a filter that has been seen before.
"""

import argparse
from collections.abc import Callable
from functools import partial
from timeit import repeat

import numpy as np

from benchmarks import harness
from corank.core.stored_matrix import StoredMatrix
from corank.core.vector_search import search_vectors

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
WIDTH, KEEP = 32, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--searches", type=int, default=51)
    options = parser.parse_args()

    def median(search: Callable[[], object]) -> float:
        return float(np.median(repeat(search, number=1, repeat=options.searches))) * 1e3

    figures, random = dict[str, float](), np.random.default_rng(0)
    for size, items in SIZES.items():
        plain = random.standard_normal((items, WIDTH), dtype=np.float32)
        query = random.standard_normal(WIDTH, dtype=np.float32)
        stored = StoredMatrix(plain)
        half, hundredth = (np.arange(0, items, step) for step in (2, 100))
        figures |= {
            f"{size}.fp32_ms": median(partial(search_vectors, stored, query, KEEP)),
            f"{size}.half_ms": median(partial(search_vectors, stored, query, KEEP, half)),
            f"{size}.hundredth_ms": median(partial(search_vectors, stored, query, KEEP, hundredth)),
            f"{size}.product_ms": median(partial(np.matmul, plain, query)),
        }
        stored = StoredMatrix.encode(plain, "int8")
        figures[f"{size}.int8_ms"] = median(partial(search_vectors, stored, query, KEEP))
    harness.report("retrieval", figures, {}, options.json)


if __name__ == "__main__":
    main()
