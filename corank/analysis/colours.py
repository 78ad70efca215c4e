"""Colours of plots and pages, on a light ground, and how many small plots are in a row; without matplotlib."""

INK, FAINT, RULE = "#22272e", "#626b76", "#dde1e6"
GOOD, BAD = "#2f7a33", "#b3261e"
"""Colours of better and worse."""
COLOURS = ("#1f5f99", "#c2502e", "#4c8a3f", "#7d5ba6", "#b08500", "#3b8ea5")
ACROSS = 3
"""Small plots in a row, and arms of one table, at most."""


def plot_rows(plots: int) -> int:
    """Number of rows that so many small plots need."""
    return -(-plots // ACROSS)
