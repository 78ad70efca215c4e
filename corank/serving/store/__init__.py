"""Versions of bundles in a store, and how a service follows them."""
