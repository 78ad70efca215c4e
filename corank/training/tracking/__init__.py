"""Callbacks that write trainings to experiment trackers."""
