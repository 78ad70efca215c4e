"""A canary and a shadow judged by the log of what was served."""
