"""A metric: average precision of a user's exposed candidates, which early stopping may use.

    train:
      early_stop: {metric: rank.click.average_precision}

Letters: N rows · U users.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import METRICS, Metric


def average_precision(
    user: NDArray[np.integer], logit: NDArray[np.floating], label: NDArray[Any]
) -> RatioMeasure:
    """Mean over users with a positive of the mean precision at their positives (MAP); unknown labels do not count.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.4.
    """
    known = label >= 0
    user, logit, positive = user[known], logit[known], label[known] == 1
    order = np.lexsort((-logit, user))
    user, positive = user[order], positive[order]
    _, first, rows = np.unique(user, return_index=True, return_counts=True)
    rank = np.arange(len(user)) - np.repeat(first, rows)  # within the user, from 0
    before = np.cumsum(positive) - positive
    hits = before - np.repeat(before[first], rows) + positive
    precision = np.where(positive, hits / (rank + 1), 0.0)
    positives = np.add.reduceat(positive, first) if len(first) else np.zeros(0)
    total = np.add.reduceat(precision, first) if len(first) else np.zeros(0)
    some = positives > 0
    return RatioMeasure.of(
        user[first][some], total[some] / positives[some], np.ones(some.sum()), int(some.sum())
    )


AVERAGE_PRECISION = Metric(
    "average_precision",
    average_precision,
    ("user", "logit", "label"),
    "exposed",
    "higher",
    validation=True,
)
METRICS.add("average_precision", AVERAGE_PRECISION)
