"""Configs trained and measured to be compared: one way to run a trial, for studies, tunings and experiments."""
