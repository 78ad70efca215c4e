"""Logs whose rows hold lists of candidates."""
