"""Metrics of what a stage's cut keeps of a reference's best candidates, request by request.

`rank` and `reference_rank` are `Requests.ranks(scores)`, 0 for the best. A metric is a mean over the eligible requests:
one with no more candidates than the cut loses nothing in any order, and does not count.

Letters: R requests · C candidates.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Longs
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


def recall_of(requests: Requests, positives: NDArray[np.bool_], rank: Longs, m: int) -> RatioMeasure:
    """Share of the positives that is in the stage's top m; every recall is made of it.

    Eligible: more than m candidates and a positive among them. Random order of n candidates: m / n.

    Args:
        requests: how the candidates lie in requests.
        positives: (C,) bool.
        rank: rank by the stage: (C,).
        m: how many candidates the stage keeps.
    """
    count, kept = requests.sums(positives), requests.sums(positives & (rank < m))
    eligible = (requests.size > m) & (count > 0)
    return requests.mean(kept / _at_least_1(count), eligible, random_recall(requests.size, m))


def recall(requests: Requests, reference_rank: Longs, rank: Longs, k: int, m: int) -> RatioMeasure:
    """Recall k@m: share of the reference's top k that is in the stage's top m.

    The reference is the last stage (`agree_recall`) or the truth (`truth_recall`).
    Eligible: more than m candidates. Random order of n candidates: m / n.

    Args:
        requests: how the candidates lie in requests.
        reference_rank: rank by the reference: (C,).
        rank: rank by the stage: (C,).
        k: how many of the reference's best are wanted.
        m: how many candidates the stage keeps.
    """
    return recall_of(requests, reference_rank < k, rank, m)


def click_recall(requests: Requests, labels: NDArray[np.integer], rank: Longs, m: int) -> RatioMeasure:
    """Share of the clicked candidates that is in the stage's top m.

    Eligible: more than m candidates and a click among them. Random order of n candidates: m / n.

    Args:
        requests: how the candidates lie in requests.
        labels: 1 where clicked, else 0 or −1: (C,).
        rank: rank by the stage: (C,).
        m: how many candidates the stage keeps.
    """
    return recall_of(requests, labels == 1, rank, m)


def overlap(requests: Requests, rank: Longs, other_rank: Longs, k: int) -> RatioMeasure:
    """Share that the top k of two stages, by their ranks (C,), have in common: recall k@k."""
    return recall(requests, rank, other_rank, k, k)


def random_recall(size: Longs, m: int) -> NDArray[np.float64]:
    """Recall at m of a random order of `size` candidates: (R,); above 1 where m is above `size`."""
    return m / _at_least_1(size)


def _at_least_1(count: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """A divisor; a request in which it was 0 is not eligible."""
    return np.maximum(count, 1.0)
