"""What functions show in the output of a notebook's cell."""
