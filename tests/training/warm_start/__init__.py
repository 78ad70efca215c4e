"""Tests of weights that are taken over from an earlier run."""
