"""Recall against quota: how much of the best a stage would keep, were its quota another.

Letters: C candidates · M quotas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corank.core.types import Doubles, Longs
from corank.metrics.cascade import share
from corank.metrics.measure import Ratio
from corank.metrics.requests import Requests


@dataclass(frozen=True)
class QuotaCurve:
    m: Longs  # (M,)
    measures: dict[str, tuple[Ratio, ...]]
    """Reference → its recall at each m."""

    def recall(self, reference: str) -> Doubles:
        """(M,), NaN where no request is eligible."""
        return np.array([measure.value() for measure in self.measures[reference]], dtype=np.float64)

    def random(self, reference: str) -> Doubles:
        """What a random order would have: (M,), NaN where no request is eligible."""
        return np.array([measure.chance() for measure in self.measures[reference]], dtype=np.float64)


def quota_curve(
    requests: Requests, references: Mapping[str, NDArray[np.bool_]], stage: Longs, quotas: Sequence[int]
) -> QuotaCurve:
    """Recall of each reference in the stage's top m, for every m of `quotas` (M,), from one sort of the stage.

    A reference is its positives (C,): the ranker's top k (agree), the truth's (truth), the clicks (click). Each point
    is `recall_of` at its m, with its eligible requests: those with more than m candidates and a positive. So the
    curve may fall where short requests leave it; give requests of one length, or read `measures[...].n`.
    """
    return QuotaCurve(
        np.array(quotas, dtype=np.int64),
        {name: _recalls(requests, positives, stage, quotas) for name, positives in references.items()},
    )


def _recalls(
    requests: Requests, positives: NDArray[np.bool_], stage: Longs, quotas: Sequence[int]
) -> tuple[Ratio, ...]:
    rows = np.flatnonzero(positives)
    request, place = requests.request_of[rows], stage[rows]
    count = np.bincount(request, minlength=len(requests.size))
    whole = np.maximum(count, 1.0)
    return tuple(
        requests.mean(
            np.bincount(request, place < m, len(requests.size)) / whole,
            (requests.size > m) & (count > 0),
            share(requests.size, m),
        )
        for m in quotas
    )
