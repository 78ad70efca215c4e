"""Losses of the lab, by the entry point `corank.losses`."""
