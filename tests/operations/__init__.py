"""Tests of what examples/operations has for operators."""
