"""A run looked into: reports, explanations, costs."""
