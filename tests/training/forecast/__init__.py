"""Tests of what a training is said to take."""
