"""Nearest neighbours by dot product: exact, or by inverted lists."""
