"""Formulas of losses of the whole funnel."""
