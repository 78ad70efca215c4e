"""The shipped format: written whole, checked when read, renewed."""
