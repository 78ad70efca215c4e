"""What the stages learn from: a file a loss, and their sum."""
