"""Content of items and users in separate files, next to their tables."""
