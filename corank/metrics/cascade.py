"""How well the stages work together, request by request: what of the best survives a stage's cut.

`reference` and `stage` are places, `Requests.places(scores)`: (C,), 0 for the first. Each metric is a mean
over requests; those with no more candidates than the cut lose nothing in any order, so they do not count.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Longs
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests


def recall_of(requests: Requests, positives: NDArray[np.bool_], stage: Longs, m: int) -> Ratio:
    """The share of the `positives` (C,) that is in the stage's top m: what all recalls are made of.

    Eligible: more than m candidates and a positive among them. Random order of n: m / n.
    """
    count, caught = requests.sums(positives), requests.sums(positives & (stage < m))
    eligible = (requests.size > m) & (count > 0)
    return requests.mean(caught / _at_least_1(count), eligible, share(requests.size, m))


def recall(requests: Requests, reference: Longs, stage: Longs, k: int, m: int) -> Ratio:
    """Recall k@m: the share of the reference's top k that is in the stage's top m.

    The reference is the ranker (`agree_recall`) or the truth (`truth_recall`).
    Eligible: more than m candidates. Random order of n: m / n.
    """
    return recall_of(requests, reference < k, stage, m)


def click_recall(requests: Requests, labels: NDArray[np.integer], stage: Longs, m: int) -> Ratio:
    """The share of the clicked candidates (`labels` 1) that is in the stage's top m.

    Eligible: more than m candidates and a click among them. Random order of n: m / n.
    """
    return recall_of(requests, labels == 1, stage, m)


def overlap(requests: Requests, one: Longs, other: Longs, k: int) -> Ratio:
    """The share that the top k of two stages have in common; eligible and random as in recall k@k."""
    return recall(requests, one, other, k, k)


def share(size: Longs, m: int) -> NDArray[np.float64]:
    """What a random order has of any candidates in its top m, by the number of all: (R,), above 1 where m is."""
    return m / _at_least_1(size)


def _at_least_1(count: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """A divisor; where it was 0 the request is not eligible."""
    return np.maximum(count, 1.0)
