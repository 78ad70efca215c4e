"""What is installed: the base alone, and each extra."""
