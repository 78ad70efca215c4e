"""Tests of `corank_lab`."""
