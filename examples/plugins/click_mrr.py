"""A metric: the reciprocal rank of the first click in a stage's order."""

import numpy as np
from numpy.typing import NDArray

from corank.metrics.measure import RatioMeasure
from corank.metrics.metric import METRICS, Metric
from corank.metrics.requests import Requests


def reciprocal_rank(
    requests: Requests, label: NDArray[np.floating], rank: NDArray[np.integer]
) -> RatioMeasure:
    """Mean over requests with a click of 1 / (rank of the first click), ranks from 1."""
    clicked = np.flatnonzero(label == 1)
    first = np.full(len(requests.size), np.inf)
    np.minimum.at(first, requests.request_of[clicked], rank[clicked])
    return requests.mean(1 / (1 + first), np.isfinite(first))


METRICS.add(
    "click_mrr",
    Metric("click_mrr", reciprocal_rank, ("requests", "label", "rank"), "cut", "higher"),
)
