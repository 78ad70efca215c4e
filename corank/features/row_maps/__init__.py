"""Which rows of embedding tables stand for the same value in two packings."""
