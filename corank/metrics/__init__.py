"""How well a stage predicts (point), how well stages work together (cascade, kendall), how sure it is.

Every metric is a function that returns a `Measure`: parts by user that merge over shards and workers,
give the metric's value, and can be resampled. An undefined value (one class, nothing eligible) is None.
"""

from corank.metrics.bootstrap import interval, replicates
from corank.metrics.cascade import click_recall, overlap, recall, score_loss
from corank.metrics.kendall import kendall_tau
from corank.metrics.measure import Measure, Ordered, Ratio
from corank.metrics.point import auc, cut_auc, ece, gauc, logloss, pcoc, truth_auc
from corank.metrics.requests import Requests

__all__ = [
    "Measure",
    "Ordered",
    "Ratio",
    "Requests",
    "auc",
    "click_recall",
    "cut_auc",
    "ece",
    "gauc",
    "interval",
    "kendall_tau",
    "logloss",
    "overlap",
    "pcoc",
    "recall",
    "replicates",
    "score_loss",
    "truth_auc",
]
