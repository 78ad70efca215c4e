"""Packed data that are used again."""
