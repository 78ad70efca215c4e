"""Words for differences of metrics. Loads no torch."""

WORDS = {1: "better", -1: "worse", 0: "no difference shown"}
"""Verdict by the sign of the first run's difference to the second, if its interval lies beyond the margin."""
