"""Tests of what comes before a training."""
