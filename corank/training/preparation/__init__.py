"""What comes before a training: packed data, and the agreement of its ranks."""
