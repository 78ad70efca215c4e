"""Counts by key and period: how they add up, forget, and smooth a rate."""
