"""Which candidates each stage learns from.

Candidates come from the levels of the log and from two sources beyond it: the items of the batch's other requests, and
the catalogue. Every loss declares how many of each it wants of a request. A batch reads what some loss wants, in an
order that is drawn again each epoch; each loss takes the first of that order. The same seed draws the same candidates.
A split is counted by level, and by what is known of each label, to see how many candidates there are to learn from.

Letters: R requests · C candidates · N levels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corank.core.ordering import stable_order
from corank.core.types import Hashes, Ints, Mask

BATCH, CATALOGUE = 254, 255
SOURCES = {"batch": BATCH, "catalogue": CATALOGUE}
"""Codes besides those of levels: items of the batch's other requests, items of the catalogue."""

OUTCOMES = 253
"""Code of rows of the log that are drawn besides those of levels, for the first label that is known everywhere; that of
the next is 1 less."""
FIRST_CODE = 192
"""Codes from here on are of drawn rows, no levels."""

ITEM = "item"
"""Counts the rates of outcomes by item; other names are features of items."""

Population = Mapping[int, int | None]
"""Level, source or code of drawn rows → candidates a request, None for all; those not named are left out."""


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
        level: (C,). Requests times levels are below 2³¹.
        hashes: a random number of every candidate, of which the first 16 bits count: (C,).
    """
    group = request_of * np.int32(int(level.max(initial=0)) + 1) + level
    order = np.argsort((hashes >> np.uint64(48)).astype(np.uint16), kind="stable")
    order = order.take(stable_order(group.take(order)))
    size = np.bincount(group)
    position = np.empty(len(group), dtype=np.int32)
    position[order] = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
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


class Outcomes(NamedTuple):
    """Rows to draw: the candidates whose label is 1, and others of their requests."""

    label: str
    """Known everywhere."""
    bias: str | None
    """What its rates are counted by, as in the loss `outcome`."""


class LabelCounts(NamedTuple):
    """Exposed candidates, or those of all levels, by what is known of a label."""

    positives: int = 0
    negatives: int = 0
    null: int = 0
    """Unknown; of packed data, whatever the reason."""
    excluded: int = 0
    """The label that it is given did not happen."""
    immature: int = 0
    """Too young when the log was read."""

    @property
    def known(self) -> int:
        """Candidates that a loss of the label can learn from."""
        return self.positives + self.negatives

    @property
    def exposed(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def rate(self) -> float | None:
        """The share of positives among what is known; None if nothing is."""
        return self.positives / self.known if self.known else None


def merge_counts(counts: Iterable[LabelCounts]) -> LabelCounts:
    """Add up the counts of several levels."""
    return LabelCounts(*map(sum, zip(*counts, strict=True)))


class MixedCounts(NamedTuple):
    """Requests whose exposed candidates have both a 1 and a 0 of a label: those in which it orders."""

    requests: int = 0
    positives: int = 0
    """Candidates of these requests with a 1."""
    negatives: int = 0
    """Candidates of these requests with a 0."""


@dataclass(frozen=True)
class SplitCounts:
    """What a split holds, as far as losses learn from it."""

    requests: int
    sizes: Sequence[Mapping[int, int]]
    """For each level, shallow to deep: how many requests have how many of its candidates."""
    labels: Mapping[str, LabelCounts]
    mixed: Mapping[str, MixedCounts]
    scores: Mapping[str, Sequence[int]]
    """By logged score, the candidates of each level that have it."""
    by_level: Mapping[str, Sequence[LabelCounts]] = field(default_factory=dict)
    """Labels that are known everywhere, level by level, shallow to deep."""

    def rows(self, population: Population) -> int:
        """Count the candidates that a population reads, at most, an epoch: draws beyond the log may repeat."""
        total = 0
        for code, most in population.items():
            if FIRST_CODE <= code <= OUTCOMES:
                continue  # a loss of outcomes counts them itself
            if code in SOURCES.values():
                total += self.requests * (most or 0)
            else:
                total += sum(
                    requests * (size if most is None else min(size, most))
                    for size, requests in self.sizes[code].items()
                )
        return total

    @property
    def levels(self) -> list[int]:
        """Candidates of each level, shallow to deep."""
        return [self.rows({level: None}) for level in range(len(self.sizes))]


class Targets(NamedTuple):
    """The rows from which a loss learns in a split, an epoch."""

    rows: int
    positives: int
    """Rows whose score it raises."""
    negatives: int
    """Rows whose score it lowers."""
