"""How well the stages work together, request by request: what of the best survives a stage's cut.

`reference` and `stage` are places, `Requests.places(scores)`: (C,), 0 for the first. Each metric is a mean
over requests; those with no more candidates than the cut lose nothing in any order, so they do not count.
"""

import numpy as np
from numpy.typing import NDArray

from corank.errors import DataError
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests
from corank.rows import Longs


def recall(requests: Requests, reference: Longs, stage: Longs, k: int, m: int) -> Ratio:
    """Recall k@m: the share of the reference's top k that is in the stage's top m.

    The reference is the ranker (`agree_recall`) or the truth (`truth_recall`).
    Eligible: more than m candidates. Random order of n: m / n.
    """
    hits = requests.sums((reference < k) & (stage < m))
    return requests.mean(
        hits / _at_least_1(np.minimum(k, requests.size)), requests.size > m, _share(requests, m)
    )


def click_recall(requests: Requests, labels: NDArray[np.integer], stage: Longs, m: int) -> Ratio:
    """The share of the clicked candidates (`labels` 1) that is in the stage's top m.

    Eligible: more than m candidates and a click among them. Random order of n: m / n.
    """
    clicks = requests.sums(labels == 1)
    caught = requests.sums((labels == 1) & (stage < m))
    return requests.mean(
        caught / _at_least_1(clicks), (requests.size > m) & (clicks > 0), _share(requests, m)
    )


def overlap(requests: Requests, one: Longs, other: Longs, k: int) -> Ratio:
    """The share that the top k of two stages have in common; eligible and random as in recall k@k."""
    return recall(requests, one, other, k, k)


def score_loss(requests: Requests, scores: NDArray[np.floating], stage: Longs, n: int) -> Ratio:
    """What the cut costs in the ranker's eyes: 1 − Σ its scores of the stage's top n / Σ of its own top n.

    `scores` (C,) are the ranker's values, at least 0 (probabilities, not logits). Eligible: more than n
    candidates, a top n of the ranker's above 0. Random order: 1 − n · mean score / Σ of the own top n.
    """
    if scores.min(initial=0) < 0:
        raise DataError(
            f"scores: {scores.min()} is below 0; a share of scores needs probabilities, not logits"
        )
    best = requests.sums(scores * (requests.places(scores) < n))
    got = requests.sums(scores * (stage < n))
    eligible = (requests.size > n) & (best > 0)
    whole = np.where(eligible, best, 1)
    return requests.mean(1 - got / whole, eligible, 1 - _share(requests, n) * requests.sums(scores) / whole)


def _share(requests: Requests, m: int) -> NDArray[np.float64]:
    return m / _at_least_1(requests.size)


def _at_least_1(count: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """A divisor; where it was 0 the request is not eligible."""
    return np.maximum(count, 1.0)
