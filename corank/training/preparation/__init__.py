"""Preparation of a training: packed data, and the agreement of its ranks."""
