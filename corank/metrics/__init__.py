"""How well a stage predicts (point), how well stages work together (all others), how sure it is (bootstrap).

Every metric is a function that returns a `Measure`: parts by user that merge over shards and workers,
give the metric's value, and can be resampled. An undefined value (one class, nothing eligible) is None.
"""

from corank.metrics.bootstrap import interval, replicates
from corank.metrics.cascade import click_recall, overlap, recall, recall_of
from corank.metrics.gain import best_score_loss, gain_ratio, ndcg, score_loss
from corank.metrics.joint import cascade_places, joint_recall, replaced_hit_rate
from corank.metrics.kendall import kendall_tau
from corank.metrics.measure import Measure, Ordered, Ratio
from corank.metrics.point import auc, cut_auc, ece, gauc, logloss, pcoc, truth_auc
from corank.metrics.quota import QuotaCurve, quota_curve
from corank.metrics.regret import Difference, bias_regret
from corank.metrics.reliability import Reliability, reliability
from corank.metrics.requests import Requests

__all__ = [
    "Difference",
    "Measure",
    "Ordered",
    "QuotaCurve",
    "Ratio",
    "Reliability",
    "Requests",
    "auc",
    "best_score_loss",
    "bias_regret",
    "cascade_places",
    "click_recall",
    "cut_auc",
    "ece",
    "gain_ratio",
    "gauc",
    "interval",
    "joint_recall",
    "kendall_tau",
    "logloss",
    "ndcg",
    "overlap",
    "pcoc",
    "quota_curve",
    "recall",
    "recall_of",
    "reliability",
    "replaced_hit_rate",
    "replicates",
    "score_loss",
    "truth_auc",
]
