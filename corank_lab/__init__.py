"""What research adds to corank: losses, stage models and importers that register as any plug-in does.

Nothing in `corank` imports this package; the entry points of the distribution name its parts.
"""
