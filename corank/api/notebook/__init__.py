"""Output of functions in a notebook's cell."""
