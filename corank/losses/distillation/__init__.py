"""Formulas of losses that learn the detached scores of teachers."""
