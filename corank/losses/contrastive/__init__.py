"""Losses that put a candidate above a set of others by a softmax, and the items of a batch."""
