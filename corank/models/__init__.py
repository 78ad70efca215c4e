"""The stages as one network."""
