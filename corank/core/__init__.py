"""Primitives that every package may use. No torch."""
