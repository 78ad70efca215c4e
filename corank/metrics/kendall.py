"""Kendall's rank correlation of two stages within each request, for all requests at once in O(C log n).

Letters: R requests · C candidates · n the longest request.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


def kendall_tau(requests: Requests, one: NDArray[np.floating], other: NDArray[np.floating]) -> RatioMeasure:
    """Mean over requests of Kendall's tau-b, which allows for ties, between the scores (C,) of two stages.

    tau-b = (concordant − discordant) / sqrt(pairs not tied in one · pairs not tied in the other). Source of the
    counting: Knight, A Computer Method for Calculating Kendall's Tau with Ungrouped Data, 1966. Eligible: requests in
    which neither stage gives all candidates the same score. Random order: 0.
    """
    by_other = requests.ascending(other)
    order = by_other[requests.ascending(one[by_other])]
    one, other = one[order], other[order]
    tied_one = _tied_pairs(requests, one)
    tied_both = _tied_pairs(requests, one, other)

    # Ties in the other stage keep their order, so that no tied pair counts as an inversion.
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
    """Count the pairs of each request that are equal in all keys; equal values must be neighbours: (R,)."""
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
    """Count the inversions of each request: (R,). `rank` (C,) numbers the candidates of a request from 0.

    A radix sort from the highest bit down: two ranks are an inversion if, at the first bit in which they differ, the 1
    is before the 0. Ranks leave no gap, so those that share all higher bits fill known positions.
    """
    position = np.arange(len(rank))
    inversions = np.zeros(len(rank), dtype=np.int64)
    for bit in reversed(range(int(rank.max(initial=0)).bit_length())):
        group = requests.start_of + ((rank >> (bit + 1)) << (bit + 1))
        one = (rank >> bit) & 1
        ones = np.cumsum(one) - one
        ones_before = ones - ones[group]
        inversions += (1 - one) * ones_before
        alike_before = np.where(one == 1, ones_before, position - group - ones_before)
        target = requests.start_of + ((rank >> bit) << bit) + alike_before
        moved = np.empty_like(rank)
        moved[target] = rank
        rank = moved
    return requests.sums(inversions)
