"""What a cut costs in the ranker's eyes: its scores, or its order, as the gain of a candidate.

`scores` (C,) are the ranker's values, `stage` and `reference` places (C,), 0 for the first. Requests with no more
candidates than the cut lose nothing in any order, so they do not count.
Gains by light ranker (N) and heavy ranker (K) are those of twitter/the-algorithm, models/libs/light_ranking_metrics.
"""

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs
from corank.metrics.cascade import share
from corank.metrics.joint import reranked
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests


def score_loss(requests: Requests, scores: NDArray[np.floating], stage: Longs, n: int) -> Ratio:
    """What the cut costs: 1 − Σ the ranker's scores of the stage's top n / Σ of its own top n.

    It is 1 − `gain_ratio` at k = m = n. `scores` are at least 0 (probabilities, not logits). Eligible: more than n
    candidates, a top n of the ranker's above 0. Random order: 1 − n · mean score / Σ of the own top n.
    """
    _refuse_negative(scores)
    best = requests.sums(scores * (requests.places(scores) < n))
    got = requests.sums(scores * (stage < n))
    eligible = (requests.size > n) & (best > 0)
    whole = np.where(eligible, best, 1)
    random = 1 - share(requests.size, n) * requests.sums(scores) / whole
    return requests.mean(1 - got / whole, eligible, random)


def best_score_loss(requests: Requests, scores: NDArray[np.floating], stage: Longs, m: int) -> Ratio:
    """The ranker's best score of all candidates less its best in the stage's top m, in units of the score.

    Named score loss, or expected loss at N, in twitter/the-algorithm. Eligible: more than m candidates.
    Random order: the expected best of m drawn candidates.
    """
    ranker = requests.places(scores)
    kept = reranked(requests, stage, m, scores)
    best, got = requests.sums(scores * (ranker == 0)), requests.sums(scores * (kept == 0))
    drawn = requests.sums(scores * _drawn(requests, ranker, 1, m))
    return requests.mean(best - got, requests.size > m, best - drawn)


def gain_ratio(requests: Requests, scores: NDArray[np.floating], stage: Longs, k: int, m: int) -> Ratio:
    """Cumulative gain ratio: Σ of the ranker's k best scores in the stage's top m / Σ of its k best of all.

    k counts up to m. `scores` are at least 0 (probabilities, not logits). Eligible: more than m candidates, a
    top k of the ranker's above 0. Random order: the expected sum of the k best of m drawn candidates.
    """
    _refuse_negative(scores)
    k = min(k, m)
    ranker = requests.places(scores)
    best = requests.sums(scores * (ranker < k))
    got = requests.sums(scores * (reranked(requests, stage, m, scores) < k))
    eligible = (requests.size > m) & (best > 0)
    whole = np.where(eligible, best, 1)
    drawn = requests.sums(scores * _drawn(requests, ranker, k, m))
    return requests.mean(got / whole, eligible, drawn / whole)


def ndcg(requests: Requests, reference: Longs, stage: Longs, k: int) -> Ratio:
    """NDCG@k with the ranker's order as gain: k for its first, 1 for its kth, 0 behind.

    Σ gain / log2(place + 2) over the stage's top k, over the same sum in the ranker's own order (Järvelin and
    Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques, 2002). Eligible: more than k candidates.
    Random order of n: mean gain · Σ of the k discounts / the ideal.
    """
    first = np.arange(k)
    discount = 1 / np.log2(first + 2)
    ideal = (k - first) @ discount
    gain = np.maximum(k - reference, 0)
    got = requests.sums(np.append(discount, 0)[np.minimum(stage, k)] * gain)
    random = share(requests.size, k) * (k + 1) / 2 * discount.sum() / ideal
    return requests.mean(got / ideal, requests.size > k, random)


def _drawn(requests: Requests, places: Longs, k: int, m: int) -> Doubles:
    """The chance that a candidate is drawn and among the best k, by `places` (C,), of m drawn of its request: (C,).

    m / n · Σ_{i < k} C(place, i) · C(n − 1 − place, m − 1 − i) / C(n − 1, m − 1): at most k − 1 of the other
    m − 1 are better. 0 in requests of m candidates or fewer, which do not count.
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
    row: Longs = first[code][requests.request_of] + places
    return chance[row]


def _refuse_negative(scores: NDArray[np.floating]) -> None:
    if scores.min(initial=0) < 0:
        raise DataError(
            f"scores: {scores.min()} is below 0; a share of scores needs probabilities, not logits"
        )
