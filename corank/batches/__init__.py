"""Packed data → batches of whole requests."""
