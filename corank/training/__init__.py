"""A config → a run → a bundle."""
