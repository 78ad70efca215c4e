"""Versions compared by the log of what was served and the exposures joined to it."""
