"""Metrics of each stage and of the stages together, with intervals.

Every formula is a function of arrays that returns a `Measure`: sums by user, which merge over shards, give the value of
the metric, and can be resampled. A value that is not defined (one class only, no eligible request) is None. The table
in `metric.py` is where the rest of corank finds them.
"""
