"""Trainings written to trackers."""
