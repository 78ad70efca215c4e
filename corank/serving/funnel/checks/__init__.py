"""Checks of a request against what the bundle knows, and warnings of what would change a score without a word."""
