"""Which candidates of a request a training batch holds.

Only what some loss learns from is read: every exposed candidate, and of each other level as many as the losses ask
for, drawn anew each epoch. The same seed draws the same candidates.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Population = Mapping[int, int | None]
"""Level → candidates a request, None for all; levels not named are left out."""


def merge(populations: list[Population]) -> dict[int, int | None]:
    """The smallest population that holds each of `populations`."""
    merged: dict[int, int | None] = {}
    for population in populations:
        for level, count in population.items():
            held = merged.get(level, 0)
            merged[level] = None if count is None or held is None else max(held, count)
    return merged


def chosen(
    population: Population, request_of: NDArray[np.int32], level: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mark the candidates to keep: (C,). Capped levels are sampled without replacement in each request.

    Args:
        request_of: ascending request of every candidate, (C,).
        level: level of every candidate, (C,).
    """
    keep = np.isin(level, [name for name, count in population.items() if count is None])
    for name in sorted(population):
        count = population[name]
        if count is None:
            continue
        rows = np.flatnonzero(level == name)
        drawn = rng.integers(0, 1 << 31, size=len(rows))
        order = rows[np.argsort((request_of[rows].astype(np.int64) << 31) | drawn)]
        request = request_of[order]
        begins = np.flatnonzero(np.diff(request, prepend=-1))
        place = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
        keep[order[place < count]] = True
    return keep
