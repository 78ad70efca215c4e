"""Configs trained and measured to be compared: one way to run a trial, for tunings and experiments."""
