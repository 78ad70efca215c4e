"""Words for differences of metrics, and which way a metric is better. Loads no torch."""

import re

from corank.metrics.inputs import Population
from corank.metrics.metric import METRICS, Direction

WORDS = {1: "better", -1: "worse", 0: "no difference shown"}
"""Verdict by the sign of the first run's difference to the second, if its interval lies beyond the margin."""

BETTER: dict[Direction, str] = {"higher": "higher", "lower": "lower", "one": "near 1"}
"""Better values of a metric, as tables name them."""


def metric_direction(name: str, *populations: Population) -> Direction:
    """Which way a metric of a document is better: `click_recall@50` is of the metric `click_recall@{m}`."""
    for metric in METRICS.parts().values():
        pattern = re.sub(r"\\{[km]\\}", "[0-9]+", re.escape(metric.name))
        if metric.population in populations and re.fullmatch(pattern, name):
            return metric.better
    raise KeyError(f"{', '.join(populations)} has no metric {name!r}")
