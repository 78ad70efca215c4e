"""Histories that networks attend to: their events, how these are encoded, and attention to them."""
