"""Metrics of what the log alone does not show, estimated from requests of a random bucket or by the last stage.

Importing the package enters them in the table of metrics.
"""

from corank.metrics.estimates.best_cut import best_cut, bucket_click_recall
from corank.metrics.estimates.off_policy import bucket_weight, dr_click_rate, ips_click_rate, snips_click_rate
from corank.metrics.metric import METRICS, Metric

_BUCKET = ("requests", "listed", "clicked", "exposed", "propensity")

METRICS.add("ips_click_rate", Metric("ips_click_rate@{k}", ips_click_rate, _BUCKET, "cascade", "higher"))
METRICS.add(
    "snips_click_rate",
    Metric("snips_click_rate@{k}", snips_click_rate, _BUCKET, "cascade", "higher", study="first"),
)
METRICS.add(
    "dr_click_rate",
    Metric("dr_click_rate@{k}", dr_click_rate, (*_BUCKET, "expected"), "cascade", "higher"),
)
METRICS.add(
    "bucket_weight",
    Metric("bucket_weight", bucket_weight, ("requests", "exposed", "propensity"), "cascade", "one"),
)
METRICS.add(
    "best_cut", Metric("best_cut@{m}", best_cut, ("requests", "expected", "rank", "m"), "cut", "lower")
)
_CLICKS = ("requests", "label", "exposed", "propensity", "rank", "m")
METRICS.add(
    "bucket_click_recall",
    Metric("bucket_click_recall@{m}", bucket_click_recall, _CLICKS, "cut", "higher", study="first"),
)
