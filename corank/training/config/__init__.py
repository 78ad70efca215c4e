"""A config before torch is loaded: YAML, plain values, and the part that needs no torch."""
