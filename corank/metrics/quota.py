"""Recall against quota: what a stage would keep of the best with a smaller or larger quota.

Letters: C candidates · M quotas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs
from corank.metrics.cascade import random_recall
from corank.metrics.measure import RatioMeasure
from corank.metrics.requests import Requests


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
    """Compute the recall of each reference in the stage's top m for every quota m, from one sort of the stage.

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
        {name: _recalls(requests, positives, rank, quotas) for name, positives in references.items()},
    )


def _recalls(
    requests: Requests, positives: NDArray[np.bool_], rank: Longs, quotas: Sequence[int]
) -> tuple[RatioMeasure, ...]:
    rows = np.flatnonzero(positives)
    request, rank = requests.request_of[rows], rank[rows]
    count = np.bincount(request, minlength=len(requests.size))
    whole = np.maximum(count, 1.0)
    return tuple(
        requests.mean(
            np.bincount(request, rank < m, len(requests.size)) / whole,
            (requests.size > m) & (count > 0),
            random_recall(requests.size, m),
        )
        for m in quotas
    )
