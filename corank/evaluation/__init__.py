"""A run judged: every stage alone, and the stages as a cascade."""
