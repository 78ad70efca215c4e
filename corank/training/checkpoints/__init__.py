"""The state of a training, and trained models, on disk."""
