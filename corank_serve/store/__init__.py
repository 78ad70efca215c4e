"""Stores of published bundles, and how a service follows them."""
