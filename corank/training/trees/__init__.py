"""Boosted trees as teachers: fitted to packed data before a training, they give its candidates scores to learn from."""
