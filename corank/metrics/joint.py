"""The cascade as it runs: each stage ranks what the one before it kept. What of the best comes out at its end?

Letters: C candidates · S stages. Stages are their scores, S of (C,), the first to cut first; `quotas` are what all
but the last keep, S − 1, falling.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Longs, Numbers
from corank.metrics.cascade import recall_of, share
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests


def cascade_places(requests: Requests, stages: Sequence[Numbers], quotas: Sequence[int]) -> Longs:
    """Each candidate's place in the order that the cascade ends with: (C,), 0 for the first.

    What a stage cut stays behind all that it kept, as that stage had it. The cascade's top m is
    `cascade_places(...) < m`. Raises DataError on NaN or a missing score.
    """
    places = requests.places(stages[0])
    for scores, quota in zip(stages[1:], quotas, strict=True):
        places = reranked(requests, places, quota, scores)
    return places


def reranked(requests: Requests, places: Longs, quota: int, scores: Numbers) -> Longs:
    """The places (C,) once the first `quota` of each request were put in the order of `scores` (C,)."""
    kept = np.flatnonzero(places < quota)
    survivors = Requests(np.append(0, np.cumsum(np.minimum(requests.size, quota))), requests.user)
    places = places.copy()
    places[kept] = survivors.places(scores[kept])
    return places


def joint_recall(
    requests: Requests, positives: NDArray[np.bool_], stages: Sequence[Numbers], quotas: Sequence[int], m: int
) -> Ratio:
    """Joint recall k@m: the share of a request's k `positives` (C,) in the top m of the whole cascade.

    Positives are a reference's top k (`requests.places(truth) < k`) or a set, such as what production kept:
    Joint Recall@10@20 of LCRON (Wang et al., Learning Cascade Ranking as One Network, ICML 2025) has 10 of 40
    candidates, quotas [30] and m 20. No stage can keep more than the one before it, so m counts up to the least quota.
    Eligible: more than m candidates and a positive among them. Random order of n in all stages: m / n.
    """
    return recall_of(requests, positives, cascade_places(requests, stages, quotas), min([m, *quotas]))


def replaced_hit_rate(
    requests: Requests,
    stages: Sequence[Numbers],
    quotas: Sequence[int],
    replaced: int,
    by: Numbers,
    k: int,
) -> Ratio:
    """The share of the cascade's top k that stays when a model takes the place of stage `replaced`, scoring `by` (C,).

    With the last stage replaced by the pre-ranker it is the Ranking Consistency Score, RCS (Gu and Sheng, On Ranking
    Consistency of Pre-ranking Stage, 2022): of what reaches the ranker, do both choose the same? With the
    pre-ranker replaced by the ranker, of two stages, it is the recall k@m of the ranker's top k.
    Eligible: more candidates reach the stage than it keeps, k if it is the last. Random order in place of the
    last stage: k / what reaches it; in place of an earlier one it depends on the scores behind, and is not given.
    """
    original = cascade_places(requests, stages, quotas)
    changed = cascade_places(requests, [*stages[:replaced], by, *stages[replaced + 1 :]], quotas)
    reach = np.minimum(requests.size, min(quotas[:replaced], default=np.iinfo(np.int64).max))
    kept = [*quotas, k][replaced]
    hits = requests.sums((original < k) & (changed < k))
    last = replaced == len(stages) - 1
    return requests.mean(hits / k, reach > kept, share(reach, k) if last else None)
