"""Metrics of the order within a request: exposed candidates whose label is known are one list.

All arrays are (N,): a row is a candidate with its user, the number of its request, its score and its label: 1, 0, or −1
for unknown, which is left out. A request counts if it has a 1 and a 0, since otherwise every order is as good. A metric
is a mean over these requests, each weighted by the mean `weight` of its rows, so that a long list counts what a short
one does. Candidates of one score are in no order: the metric is then its mean over all their orders, so that a constant
score has the value of a random order. Raises DataError on a label out of range, DivergedError on a NaN.

Letters: N rows · L requests that count · T groups of one score.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs, Numbers
from corank.metrics.measure import Keys, RatioMeasure, differs_from_previous, order_by_group
from corank.metrics.point import Labels, group_areas, known_rows, sum_runs

CUTS = (5, 10)
"""The k of NDCG@k and hit@k."""


def request_auc(
    user: Keys, request: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None
) -> RatioMeasure:
    """Mean over requests of the AUC within a request, ties half. Random order: .5.

    It is the AUC of the leaderboards of MIND (Wu et al., ACL 2020) and of EB-NeRD, and a GAUC by request that does not
    weight requests by their impressions.
    """
    (user, request), scores, clicked, weight = known_rows((user, request), scores, labels, weight)
    groups = group_areas(request, scores, clicked, weight)
    counts = np.where(groups.mixed, groups.mass / groups.rows, 0)
    return RatioMeasure.of(
        user[groups.first], counts * groups.area, counts, n=int(groups.mixed.sum()), random=counts / 2
    )


def mrr(
    user: Keys, request: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None
) -> RatioMeasure:
    """Mean reciprocal rank of the first positive of a request: 1 / its rank, ranks from 1.

    Source: Voorhees, The TREC-8 Question Answering Track Report, 1999. MIND's MRR averages over all positives of a
    request instead; the two are the same where a request has one.
    """
    lists = _MixedLists.of(user, request, scores, labels, weight)
    first, size, positives = lists.first_hit
    value = _expected_reciprocal(first, size, positives)
    random = _expected_reciprocal(np.zeros_like(first), lists.size, lists.positives)
    return lists.mean(value, random)


def ndcg_at(
    user: Keys, request: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None, k: int = 10
) -> RatioMeasure:
    """NDCG@k with the label as gain: DCG over that of the best order, DCG = Σ 1 / log2(rank + 1) over positives to k.

    Ranks from 1. Source: Järvelin and Kekäläinen, Cumulated Gain-based Evaluation of IR Techniques, 2002; ties as
    McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores, ECIR 2008.
    """
    lists = _MixedLists.of(user, request, scores, labels, weight)
    discount = 1 / np.log2(np.arange(min(k, int(lists.size.max(initial=1)))) + 2)
    # what the first positions are worth in all, by their number
    worth = np.concatenate([[0.0], np.cumsum(discount)])

    def upto(count: Longs) -> Doubles:
        taken: Doubles = worth[np.minimum(count, len(discount))]
        return taken

    tied = (upto(lists.tie_first + lists.tie_size) - upto(lists.tie_first)) / lists.tie_size
    ideal = upto(lists.positives)
    value = np.bincount(lists.tie_list, tied * lists.tie_positives, len(ideal)) / ideal
    return lists.mean(value, lists.positives / lists.size * upto(lists.size) / ideal)


def hit_at(
    user: Keys, request: Keys, scores: Numbers, labels: Labels, weight: Numbers | None = None, k: int = 10
) -> RatioMeasure:
    """Share of requests with a positive in the top k.

    A request of k rows or fewer, which always has one there, does not count.
    """
    lists = _MixedLists.of(user, request, scores, labels, weight)
    first, size, positives = lists.first_hit
    value = _expected_hit(np.clip(k - first, 0, size), size, positives)
    random = _expected_hit(np.minimum(k, lists.size), lists.size, lists.positives)
    return lists.mean(value, random, lists.size > k)


@dataclass(frozen=True)
class _MixedLists:
    """Requests with a positive and a negative, and their groups of candidates of one score, best first."""

    user: Keys
    """The user of every request, those that do not count, too: (R,)."""
    weight: Doubles
    """Mean weight of the request's rows: (R,)."""
    counts: NDArray[np.bool_]
    """Whether the request counts: (R,)."""
    size: Longs
    """Rows: (L,)."""
    positives: Longs
    """(L,)"""
    tie_list: NDArray[np.intp]
    """The request of each group, from 0 to L − 1, ascending: (T,)."""
    tie_first: Longs
    """The group's first position in its request, from 0: (T,)."""
    tie_size: Longs
    """(T,)"""
    tie_positives: Longs
    """(T,)"""

    @classmethod
    def of(cls, user: Keys, request: Keys, scores: Numbers, labels: Labels, weight: Numbers | None) -> Self:
        (user, request), scores, clicked, weights = known_rows((user, request), scores, labels, weight)
        order = order_by_group(request, -scores)
        request, scores, clicked = request[order], scores[order], clicked[order]
        new = differs_from_previous(request)
        start = np.flatnonzero(new)
        size = np.diff(start, append=len(new))
        positives, mass = sum_runs(clicked, start).astype(np.int64), sum_runs(weights[order], start)
        counts = (positives > 0) & (positives < size)

        tie = np.flatnonzero(new | differs_from_previous(scores))
        of_request = np.searchsorted(start, tie, side="right") - 1
        kept = counts[of_request] if len(tie) else np.zeros(0, dtype=bool)
        number = np.cumsum(counts) - 1
        return cls(
            user[order][start],
            mass / np.maximum(size, 1),
            counts,
            size[counts],
            positives[counts],
            number[of_request[kept]],
            (tie - start[of_request])[kept] if len(tie) else tie,
            np.diff(tie, append=len(new))[kept],
            sum_runs(clicked, tie).astype(np.int64)[kept],
        )

    @property
    def first_hit(self) -> tuple[Longs, Longs, Longs]:
        """First position, size and positives of the first group with a positive of each request: (L,) each."""
        hit = np.flatnonzero(self.tie_positives > 0)
        hit = hit[differs_from_previous(self.tie_list[hit])]
        return self.tie_first[hit], self.tie_size[hit], self.tie_positives[hit]

    def mean(
        self, values: Doubles, random: Doubles, eligible: NDArray[np.bool_] | None = None
    ) -> RatioMeasure:
        """Average values (L,) over the requests, or over the eligible of them.

        Users without one stay, with weight 0, so that all metrics are resampled from the same users.
        """
        weight = np.zeros(len(self.user))
        weight[self.counts] = self.weight[self.counts] * (1 if eligible is None else eligible)
        numerator, expected = np.zeros(len(weight)), np.zeros(len(weight))
        numerator[self.counts], expected[self.counts] = values, random
        return RatioMeasure.of(
            self.user,
            weight * numerator,
            weight,
            n=len(values) if eligible is None else int(eligible.sum()),
            random=weight * expected,
        )


def _expected_reciprocal(first: Longs, size: Longs, positives: Longs) -> Doubles:
    """Expect 1 / rank of the first positive of a group of tied candidates that begins at a position, from 0: (L,).

    Σ_j C(t − 1 − j, p − 1) / C(t, p) / (first + 1 + j): the first positive is the group's j-th, the rest are behind it.
    """
    steps = size - positives + 1
    start = np.cumsum(steps) - steps
    j = np.arange(steps.sum()) - np.repeat(start, steps)
    t, p = np.repeat(size, steps), np.repeat(positives, steps)
    chance = np.exp(_log_choose(t - 1 - j, p - 1) - _log_choose(t, p))
    return sum_runs(chance / (np.repeat(first, steps) + 1 + j), start)


def _expected_hit(drawn: Longs, size: Longs, positives: Longs) -> Doubles:
    """The probability that at least one positive of a group is among `drawn` of its candidates: (L,)."""
    missing = size - positives
    possible = missing >= drawn
    drawn = np.where(possible, drawn, 0)
    return 1 - np.where(possible, np.exp(_log_choose(missing, drawn) - _log_choose(size, drawn)), 0)


def _log_choose(n: Longs, k: Longs) -> Doubles:
    from scipy.special import gammaln

    log_binomial: Doubles = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return log_binomial
