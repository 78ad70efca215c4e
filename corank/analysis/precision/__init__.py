"""Measures the effect of a lower precision of stored parts on logged requests."""
