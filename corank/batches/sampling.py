"""Which candidates each stage learns from.

Candidates come from the levels of the log and from two sources beyond it: the items of the batch's other requests, and
the catalogue. Every loss declares how many of each it wants of a request. A batch reads what some loss wants, in an
order that is drawn again each epoch; each loss takes the first of that order. The same seed draws the same candidates.

Letters: C candidates.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Ints, Mask

BATCH, CATALOGUE = 254, 255
SOURCES = {"batch": BATCH, "catalogue": CATALOGUE}
"""Codes beside the levels': items of the batch's other requests, items of the catalogue."""

Population = Mapping[int, int | None]
"""Level or source → candidates a request, None for all; those not named are left out."""


def merge(populations: Iterable[Population]) -> dict[int, int | None]:
    """Find the smallest population that contains all of some populations."""
    merged: dict[int, int | None] = {}
    for population in populations:
        for level, count in population.items():
            held = merged.get(level, 0)
            merged[level] = None if count is None or held is None else max(held, count)
    return merged


def draw_order(request_of: Ints, level: NDArray[np.uint8], rng: np.random.Generator) -> Ints:
    """Draw an order of the candidates of each request and level; each one's position in it, from 0: (C,).

    Args:
        request_of: ascending request of every candidate, below 65,536: (C,).
    """
    # numpy sorts 8 and 16 bits by radix: three passes are several times faster than one sort of 64
    order = np.argsort(rng.integers(0, 1 << 16, size=len(level), dtype=np.uint16), kind="stable")
    order = order[np.argsort(level[order], kind="stable")]
    order = order[np.argsort(request_of[order].astype(np.uint16), kind="stable")]
    group = request_of[order].astype(np.int64) << 8 | level[order]
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    position = np.empty(len(order), dtype=np.int32)
    position[order] = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return position


def select(population: Population, level: NDArray[np.uint8], order: Ints) -> Mask:
    """Mark the candidates that a population reads, by their `draw_order`: (C,)."""
    most = np.zeros(256, dtype=np.int64)
    for code, count in population.items():
        most[code] = np.iinfo(np.int64).max if count is None else count
    keep: Mask = order < most[level]
    return keep
