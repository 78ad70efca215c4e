"""Weights, optimiser states and averages taken over from an earlier run into a model of other data or settings."""
