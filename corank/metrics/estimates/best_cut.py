"""The probability that a stage's cut loses the best candidate of a request, by the last stage and by clicks.

The best candidate is the one that the user would choose if all were shown: by Luce's choice with calibrated click
probabilities pᵢ as weights, candidate i at the probability pᵢ / Σ pⱼ. It is softmax(log p)ᵢ, the highest of
log pᵢ + Gumbel noise, and the candidate of a click drawn from all that the request would get. So a random bucket
observes it. Calibration has fitted the scale of the logits, the temperature, on clicks.
Source: Luce, Individual Choice Behavior, 1959.

Letters: R requests · C candidates.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs, Mask, Numbers
from corank.metrics.cascade import random_recall
from corank.metrics.estimates.off_policy import RandomBucket
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


def cut_probability(requests: Requests, expected: Numbers, rank: Longs, m: int) -> Doubles:
    """Compute how likely the best candidate of each request is cut: Σ pᵢ over what is not in the top m / Σ pᵢ: (R,).

    Args:
        requests: how the candidates lie in requests.
        expected: p, the last stage's calibrated probability, above 0: (C,).
        rank: rank by the stage that cuts: (C,).
        m: how many candidates it keeps.
    """
    p = np.maximum(expected.astype(np.float64), np.finfo(np.float64).tiny)
    cut: Doubles = requests.sums(p * (rank >= m)) / requests.sums(p)
    return cut


def best_cut(requests: Requests, expected: Numbers, rank: Longs, m: int) -> RatioMeasure:
    """Average how likely the best candidate is cut, as the last stage believes.

    Eligible: more than m candidates. Random order of n candidates: 1 − m / n. Arguments as in `cut_probability`.
    """
    random = 1 - np.minimum(random_recall(requests.size, m), 1.0)
    return requests.mean(cut_probability(requests, expected, rank, m), requests.size > m, random)


def bucket_click_recall(
    requests: Requests, label: NDArray[np.integer], exposed: Mask, propensity: Numbers, rank: Longs, m: int
) -> RatioMeasure:
    """Share of the clicks that all candidates would get that is in the stage's top m: Σ yᵢ/πᵢ over E ∩ top m / over E.

    Unlike `click_recall` it is of a random bucket, so production's choice of what it exposed has no part in it.
    Eligible: requests of the bucket with more than m candidates. Random order of n candidates: m / n.

    Args:
        requests: how the candidates lie in requests.
        label: 1 where clicked, else 0 or −1: (C,).
        exposed: (C,) bool.
        propensity: at what probability a candidate was to be exposed; NaN outside of the bucket: (C,).
        rank: rank by the stage: (C,).
        m: how many candidates the stage keeps.
    """
    bucket = RandomBucket.of(requests, exposed, propensity)
    eligible = bucket.inside & (requests.size > m)
    weighted = bucket.inverse * (label == 1) * eligible[requests.request_of]
    clicks = requests.sums(weighted)
    random = clicks * np.minimum(random_recall(requests.size, m), 1.0)
    return RatioMeasure.of(
        requests.user, requests.sums(weighted * (rank < m)), clicks, int(eligible.sum()), random
    )
