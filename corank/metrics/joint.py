"""Metrics of the whole cascade, in which each stage ranks what the one before it kept.

Letters: C candidates · S stages. Stages are given by their scores, S arrays of (C,), the first to cut first; `quotas`
are what all stages but the last keep, S − 1 falling numbers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Longs, Numbers
from corank.metrics.cascade import random_recall, recall_of
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


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
