"""Versions that are served with the live one: leases keep them from being pruned."""
