"""Content of items and users that lies in files of its own, beside their tables."""
