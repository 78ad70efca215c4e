"""Packed data that are used again: what they were made of, and columns that are taken over."""
