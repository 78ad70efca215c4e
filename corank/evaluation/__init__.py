"""A run evaluated: every stage alone, and the stages as a cascade."""
