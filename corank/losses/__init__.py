"""Losses of the stages, settings and formula in one file each, and their sum."""
