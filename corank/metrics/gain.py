"""Metrics of what a cut loses by the ranker's own scores, or its own order, as the gain of a candidate.

`scores` are the ranker's values, `rank` and `reference_rank` are `Requests.ranks(…)`, 0 for the best: all (C,).
Requests with no more candidates than the cut lose nothing in any order, and do not count. Best score lost and the
cumulative gain ratio are those of twitter/the-algorithm, models/libs/light_ranking_metrics.

Letters: R requests · C candidates.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.cascade import random_recall
from corank.metrics.joint import rerank
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


def score_loss(requests: Requests, scores: NDArray[np.floating], rank: Longs, n: int) -> RatioMeasure:
    """Share of score lost: 1 − Σ the ranker's scores of the stage's top n / Σ of its own top n.

    It is 1 − `gain_ratio` at k = m = n. Eligible: more than n candidates, and a sum over the ranker's top n above 0.
    Random order: 1 − n · mean score / Σ of the own top n. Raises DataError if a score is negative: give probabilities,
    not logits.
    """
    _refuse_negative(scores)
    best = requests.sums(scores * (requests.ranks(scores) < n))
    got = requests.sums(scores * (rank < n))
    eligible = (requests.size > n) & (best > 0)
    whole = np.where(eligible, best, 1)
    random = 1 - random_recall(requests.size, n) * requests.sums(scores) / whole
    return requests.mean(1 - got / whole, eligible, random)


def best_score_loss(requests: Requests, scores: NDArray[np.floating], rank: Longs, m: int) -> RatioMeasure:
    """Best score lost: the ranker's best score of all candidates minus its best in the stage's top m.

    Called score loss, or expected loss at N, in twitter/the-algorithm. Eligible: more than m candidates.
    Random order: by the expected best of m drawn candidates.
    """
    own = requests.ranks(scores)
    kept = rerank(requests, rank, m, scores)
    best, got = requests.sums(scores * (own == 0)), requests.sums(scores * (kept == 0))
    drawn = requests.sums(scores * _drawn(requests, own, 1, m))
    return requests.mean(best - got, requests.size > m, best - drawn)


def gain_ratio(requests: Requests, scores: NDArray[np.floating], rank: Longs, k: int, m: int) -> RatioMeasure:
    """Cumulative gain ratio: Σ of the ranker's k best scores in the stage's top m / Σ of its k best of all.

    k counts up to m. Eligible: more than m candidates, and a sum over the ranker's top k above 0. Random order: by the
    expected sum of the k best of m drawn candidates. Raises DataError if a score is negative: give probabilities, not
    logits. Source: twitter/the-algorithm.
    """
    _refuse_negative(scores)
    k = min(k, m)
    own = requests.ranks(scores)
    best = requests.sums(scores * (own < k))
    got = requests.sums(scores * (rerank(requests, rank, m, scores) < k))
    eligible = (requests.size > m) & (best > 0)
    whole = np.where(eligible, best, 1)
    drawn = requests.sums(scores * _drawn(requests, own, k, m))
    return requests.mean(got / whole, eligible, drawn / whole)


def ndcg(requests: Requests, reference_rank: Longs, rank: Longs, k: int) -> RatioMeasure:
    """NDCG@k with the ranker's order as gain: k for its first, 1 for its kth, 0 behind.

    Σ gain / log2(rank + 2) over the stage's top k, over the same sum in the ranker's own order; ranks from 0. Source:
    Järvelin and Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques, 2002. Eligible: more than k candidates.
    Random order of n candidates: mean gain · Σ of the k discounts / the ideal.
    """
    first = np.arange(k)
    discount = 1 / np.log2(first + 2)
    ideal = (k - first) @ discount
    gain = np.maximum(k - reference_rank, 0)
    got = requests.sums(np.append(discount, 0)[np.minimum(rank, k)] * gain)
    random = random_recall(requests.size, k) * (k + 1) / 2 * discount.sum() / ideal
    return requests.mean(got / ideal, requests.size > k, random)


def _drawn(requests: Requests, rank: Longs, k: int, m: int) -> Doubles:
    """The probability that a candidate is drawn and among the best k, if m of its request are drawn: (C,).

    m / n · Σ_{i < k} C(rank, i) · C(n − 1 − rank, m − 1 − i) / C(n − 1, m − 1): at most k − 1 of the other m − 1 are
    better. 0 in requests of m candidates or fewer, which do not count.

    Args:
        rank: rank by the scores: (C,).
    """
    sizes, code = np.unique(requests.size, return_inverse=True)
    first = np.cumsum(sizes) - sizes
    n = np.repeat(sizes, sizes)
    better = np.arange(len(n)) - np.repeat(first, sizes)
    worse = n - 1 - better
    factorial = np.append(0, np.cumsum(np.log(np.arange(1, sizes.max(initial=m) + 1))))  # in logs

    def log_choose(of: Longs, count: int) -> Doubles:
        possible = of >= count
        of = np.where(possible, of, count)
        return np.where(possible, factorial[of] - factorial[count] - factorial[of - count], -np.inf)

    chance: Doubles = np.zeros(len(n))
    cut = n > m
    for i in range(min(k, m)):
        ways = log_choose(better[cut], i) + log_choose(worse[cut], m - 1 - i) - log_choose(n[cut] - 1, m - 1)
        chance[cut] += m / n[cut] * np.exp(ways)
    row: Longs = first[code][requests.request_of] + rank
    return chance[row]


def _refuse_negative(scores: NDArray[np.floating]) -> None:
    if scores.min(initial=0) < 0:
        raise DataError(
            f"scores: {scores.min()} is below 0; a share of scores needs probabilities, not logits"
        )
