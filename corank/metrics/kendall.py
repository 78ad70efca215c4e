"""Kendall's rank correlation of two stages within each request, over all requests at once in O(C log n)."""

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests


def kendall_tau(requests: Requests, one: NDArray[np.floating], other: NDArray[np.floating]) -> Ratio:
    """The mean over requests of tau-b between two stages' scores (C,), the one that allows for ties.

    tau-b = (concordant − discordant) / sqrt(pairs not tied in one · pairs not tied in the other), by Knight's
    counting (A Computer Method for Calculating Kendall's Tau with Ungrouped Data, 1966). Eligible: requests
    in which neither stage gives all candidates the same score. Random order: 0.
    """
    by_other = requests.ascending(other)
    order = by_other[requests.ascending(one[by_other])]
    one, other = one[order], other[order]
    tied_one = _tied_pairs(requests, one)
    tied_both = _tied_pairs(requests, one, other)

    # Ties in the other stage are ranked as they stand, so that no tied pair counts as an inversion.
    by_other = requests.ascending(other)
    rank = np.empty(len(one), dtype=np.int64)
    rank[by_other] = np.arange(len(one)) - requests.start_of
    tied_other = _tied_pairs(requests, other[by_other])

    pairs = requests.size * (requests.size - 1) / 2
    difference = pairs - tied_one - tied_other + tied_both - 2 * _inversions(requests, rank)
    square = (pairs - tied_one) * (pairs - tied_other)
    eligible = square > 0
    return requests.mean(difference / np.sqrt(np.where(eligible, square, 1)), eligible, np.zeros(len(square)))


def _tied_pairs(requests: Requests, *keys: NDArray[np.floating]) -> Doubles:
    """Pairs of a request that are equal in all keys, whose equal values lie side by side: (R,)."""
    start = np.zeros(len(requests.request_of), dtype=bool)
    start[requests.start[:-1][requests.size > 0]] = True
    for key in keys:
        start[1:] |= key[1:] != key[:-1]
    first = np.flatnonzero(start)
    length = np.diff(first, append=len(start))
    of_request = requests.request_of[first]
    pairs = length * (length - 1) / 2
    return np.bincount(of_request, pairs, len(requests.size)).astype(np.float64, copy=False)


def _inversions(requests: Requests, rank: Longs) -> Doubles:
    """Pairs of a request in descending rank: (R,). `rank` (C,) numbers each request's candidates from 0.

    A radix sort from the highest bit down: at the first bit in which its ranks differ, a pair is an inversion
    if the 1 stands before the 0. Ranks leave no gap: those that share all higher bits fill known positions.
    """
    position = np.arange(len(rank))
    found = np.zeros(len(rank), dtype=np.int64)
    for bit in reversed(range(int(rank.max(initial=0)).bit_length())):
        group = requests.start_of + ((rank >> (bit + 1)) << (bit + 1))
        one = (rank >> bit) & 1
        ones = np.cumsum(one) - one
        ones_before = ones - ones[group]
        found += (1 - one) * ones_before
        alike_before = np.where(one == 1, ones_before, position - group - ones_before)
        target = requests.start_of + ((rank >> bit) << bit) + alike_before
        moved = np.empty_like(rank)
        moved[target] = rank
        rank = moved
    return requests.sums(found)
