"""A config, read and checked without torch: YAML, plain values, settings."""
