"""The commands that search for better settings, and their tables."""
