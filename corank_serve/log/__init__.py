"""The log of served requests: written while serving, read by the next training, computed again by replay."""
