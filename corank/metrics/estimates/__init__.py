"""Metrics of what the log alone does not show, estimated from requests of a random bucket.

Importing the package enters them in the table of metrics.
"""

from corank.metrics.estimates.off_policy import bucket_weight, dr_click_rate, ips_click_rate, snips_click_rate
from corank.metrics.metric import METRICS, Metric

_BUCKET = ("requests", "listed", "clicked", "exposed", "propensity")

METRICS.add("ips_click_rate", Metric("ips_click_rate@{k}", ips_click_rate, _BUCKET, "cascade", "higher"))
METRICS.add(
    "snips_click_rate", Metric("snips_click_rate@{k}", snips_click_rate, _BUCKET, "cascade", "higher")
)
METRICS.add(
    "dr_click_rate",
    Metric("dr_click_rate@{k}", dr_click_rate, (*_BUCKET, "expected"), "cascade", "higher"),
)
METRICS.add(
    "bucket_weight",
    Metric("bucket_weight", bucket_weight, ("requests", "exposed", "propensity"), "cascade", "one"),
)
