"""Which candidates each stage learns from.

Candidates come from the levels of the log and from two sources beyond it: the items of the batch's other requests, and
the catalogue. Every loss declares how many of each it wants of a request. A batch reads what some loss wants, in an
order that is drawn again each epoch; each loss takes the first of that order. The same seed draws the same candidates.

Letters: C candidates.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Hashes, Ints, Mask

BATCH, CATALOGUE = 254, 255
SOURCES = {"batch": BATCH, "catalogue": CATALOGUE}
"""Codes besides those of levels: items of the batch's other requests, items of the catalogue."""

Population = Mapping[int, int | None]
"""Level or source → candidates a request, None for all; those not named are left out."""


class Reading(NamedTuple):
    """From which candidates a loss learns."""

    population: Population
    labels: tuple[str, ...] = ()
    """One of these must be known of a candidate; none if labels do not matter."""


def merge(populations: Iterable[Population]) -> dict[int, int | None]:
    """Find the smallest population that contains all of some populations."""
    merged: dict[int, int | None] = {}
    for population in populations:
        for level, count in population.items():
            largest = merged.get(level, 0)
            merged[level] = None if count is None or largest is None else max(largest, count)
    return merged


def draw_order(request_of: Ints, level: NDArray[np.uint8], hashes: Hashes) -> Ints:
    """Order the candidates of each request and level by random numbers; each one's position, from 0: (C,).

    Args:
        request_of: request of every candidate: (C,).
        level: (C,). Requests · levels · candidates are below 2⁴⁷.
        hashes: a random number of every candidate, of which the first 16 bits count: (C,).
    """
    group = request_of.astype(np.int64) * (int(level.max(initial=0)) + 1) + level
    # one sort of numbers that hold group, random number and position is faster than a sort of positions
    bits = len(group).bit_length()
    keys = group << (16 + bits) | ((hashes >> np.uint64(48)).astype(np.int64) << bits)
    keys |= np.arange(len(group))
    keys.sort()
    size = np.bincount(group)
    position = np.empty(len(group), dtype=np.int32)
    position[keys & (1 << bits) - 1] = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    return position


def in_levels(population: Population, level: NDArray[np.uint8]) -> Mask:
    """Mark the candidates of a population's levels: (C,)."""
    here = np.zeros(256, dtype=np.bool_)
    here[list(population)] = True
    marked: Mask = here[level]
    return marked


def select(population: Population, level: NDArray[np.uint8], order: Ints) -> Mask:
    """Mark the candidates that a population reads, by their `draw_order`: (C,)."""
    most = np.zeros(256, dtype=np.int64)
    for code, count in population.items():
        most[code] = np.iinfo(np.int64).max if count is None else count
    keep: Mask = order < most[level]
    return keep
