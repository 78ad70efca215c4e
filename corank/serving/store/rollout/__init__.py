"""Versions that are served beside the live one: leases keep them from being pruned."""
