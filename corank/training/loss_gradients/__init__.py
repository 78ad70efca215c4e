"""Gradients of each loss by itself: how far losses contradict each other, and their projection."""
