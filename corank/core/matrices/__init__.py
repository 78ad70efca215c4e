"""Matrices of which each row is an item's, stored at a precision, and decoded row by row."""
