"""Losses of the stages, one file each, and their sum."""
