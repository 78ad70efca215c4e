"""Metrics of what a stage's cut keeps of the best candidates, and of the whole cascade, request by request.

`rank` and `reference_rank` are `Requests.ranks(scores)`, 0 for the best. A metric is a mean over the eligible requests:
one with no more candidates than the cut loses nothing in any order, and does not count. In a cascade each stage ranks
what the one before it kept: stages are given by their scores, S arrays of (C,), the first to cut first, and `quotas`
are what all stages but the last keep, S − 1 falling numbers. Best score lost and the cumulative gain ratio are those of
twitter/the-algorithm, models/libs/light_ranking_metrics.

Letters: R requests · C candidates · S stages · M quotas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.errors import DataError
from corank.core.types import Doubles, Longs, Numbers
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests

QUOTAS = 12
"""Points of a quota curve, about."""


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
    # a request in which a divisor is 0 is not eligible
    return requests.mean(kept / np.maximum(count, 1.0), eligible, random_recall(requests.size, m))


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
    return m / np.maximum(size, 1.0)


def cascade_ranks(requests: Requests, stages: Sequence[Numbers], quotas: Sequence[int]) -> Longs:
    """Rank the candidates by the final order of the cascade: (C,), 0 for the best.

    What a stage cut stays behind all that it kept, in the order of that stage. The cascade's top m is
    `cascade_ranks(...) < m`. Raises DataError if a score is NaN or missing.

    Args:
        requests: how the candidates lie in requests.
        stages: scores of each stage.
        quotas: what all stages but the last keep.
    """
    rank = requests.ranks(stages[0])
    for scores, quota in zip(stages[1:], quotas, strict=True):
        rank = rerank(requests, rank, quota, scores)
    return rank


def rerank(requests: Requests, rank: Longs, quota: int, scores: Numbers) -> Longs:
    """Re-rank the first `quota` of each request by `scores` (C,); the others keep their `rank` (C,)."""
    kept = np.flatnonzero(rank < quota)
    survivors = Requests(np.append(0, np.cumsum(np.minimum(requests.size, quota))), requests.user)
    rank = rank.copy()
    rank[kept] = survivors.ranks(scores[kept])
    return rank


def joint_recall(
    requests: Requests, positives: NDArray[np.bool_], stages: Sequence[Numbers], quotas: Sequence[int], m: int
) -> RatioMeasure:
    """Joint recall k@m: share of a request's k positives in the top m of the whole cascade.

    No stage can keep more than the one before it, so m counts up to the least quota. Joint Recall@10@20 of LCRON has 10
    of 40 candidates, quotas [30] and m 20. Source: Wang et al., Learning Cascade Ranking as One Network, ICML 2025.
    Eligible: more than m candidates and a positive among them. Random order of n candidates in all stages: m / n.

    Args:
        requests: how the candidates lie in requests.
        positives: a reference's top k (`requests.ranks(truth) < k`) or a set, such as what production kept: (C,) bool.
        stages: scores of each stage.
        quotas: what all stages but the last keep.
        m: how many candidates the last stage keeps.
    """
    return recall_of(requests, positives, cascade_ranks(requests, stages, quotas), min([m, *quotas]))


def replaced_hit_rate(
    requests: Requests,
    stages: Sequence[Numbers],
    quotas: Sequence[int],
    replaced: int,
    by: Numbers,
    k: int,
) -> RatioMeasure:
    """Share of the cascade's top k that stays if another model replaces one stage.

    With the last stage replaced by the pre-ranker it is the Ranking Consistency Score: of what reaches the ranker, do
    both choose the same? Source: Gu and Sheng, On Ranking Consistency of Pre-ranking Stage, 2022. With the pre-ranker
    replaced by the ranker, of two stages, it is the recall k@m of the ranker's top k.
    Eligible: more candidates reach the stage than it keeps, which is k for the last. Random order in place of the last
    stage: k / candidates that reach it; in place of an earlier one it depends on later scores, and is None.

    Args:
        requests: how the candidates lie in requests.
        stages: scores of each stage.
        quotas: what all stages but the last keep.
        replaced: the index of the replaced stage.
        by: scores of the other model: (C,).
        k: how many candidates the last stage keeps.
    """
    original = cascade_ranks(requests, stages, quotas)
    changed = cascade_ranks(requests, [*stages[:replaced], by, *stages[replaced + 1 :]], quotas)
    reach = np.minimum(requests.size, min(quotas[:replaced], default=np.iinfo(np.int64).max))
    kept = [*quotas, k][replaced]
    hits = requests.sums((original < k) & (changed < k))
    last = replaced == len(stages) - 1
    return requests.mean(hits / k, reach > kept, random_recall(reach, k) if last else None)


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


@dataclass(frozen=True)
class QuotaCurve:
    """Recalls of a stage by quota."""

    m: Longs
    """Quotas: (M,)."""
    measures: dict[str, tuple[RatioMeasure, ...]]
    """Reference → its recall at each m."""

    def recall(self, reference: str) -> Doubles:
        """Recall at each quota: (M,), NaN where no request is eligible."""
        return np.array([measure.value() for measure in self.measures[reference]], dtype=np.float64)

    def random(self, reference: str) -> Doubles:
        """Recall of a random order at each quota: (M,), NaN where no request is eligible."""
        return np.array([measure.random_value() for measure in self.measures[reference]], dtype=np.float64)


def quota_curve(
    requests: Requests, references: Mapping[str, NDArray[np.bool_]], rank: Longs, quotas: Sequence[int]
) -> QuotaCurve:
    """Compute the recall of each reference in the stage's top m for every quota m.

    Each point is `recall_of` at its m, over its eligible requests: those with more than m candidates and a positive. So
    the curve may fall where short requests drop out: give requests of one length, or read `measures[...].n`.

    Args:
        requests: how the candidates lie in requests.
        references: name → positives (C,) bool, such as the ranker's top k, the truth's, or the clicks.
        rank: rank by the stage: (C,).
        quotas: (M,).
    """
    return QuotaCurve(
        np.array(quotas, dtype=np.int64),
        {
            name: tuple(recall_of(requests, positives, rank, m) for m in quotas)
            for name, positives in references.items()
        },
    )


def quota_grid(own: int, least: int, largest: int) -> list[int]:
    """Quotas of a stage from what a later one keeps to the longest request, its own among them."""
    even = np.geomspace(least, max(least, largest), QUOTAS).round().astype(int)
    return sorted({*even.tolist(), max(least, min(own, largest))})


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
