"""Figures of results: a figure of matplotlib that every notebook shows, also one that has not loaded pyplot."""

import io
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from corank.analysis import plots

Bounded = tuple[float, float | None, float | None]
"""A value, with its interval if it is known."""


class NotebookFigure(Figure):
    """A figure that notebooks show as SVG."""

    def _repr_svg_(self) -> str:
        written = io.StringIO()
        self.savefig(written, format="svg", metadata={"Date": None})
        return written.getvalue()


def draw_figure(draw_on: Callable[[Figure], object], height: float = 3.0) -> NotebookFigure:
    """A figure on which something is drawn.

    Args:
        draw_on: draws on an empty figure.
        height: inches.
    """
    figure = NotebookFigure(figsize=(8.0, height), layout="constrained")
    draw_on(figure)
    return figure


def draw_bounded(panels: Mapping[str, Mapping[str, Bounded]], from_zero: bool) -> NotebookFigure:
    """Values with their intervals, one panel a name and one row a name below it; only rows that all panels have.

    Args:
        panels: panel → row → value.
        from_zero: they are differences, drawn next to a line at 0.
    """
    common = [row for row in next(iter(panels.values()), {}) if all(row in rows for rows in panels.values())]
    shown = {name: {row: rows[row] for row in common} for name, rows in panels.items()}
    draw_on = plots.intervals if from_zero else plots.values
    return draw_figure(lambda figure: draw_on(figure, shown), height=1.2 + 0.28 * len(common))


def draw_bars(panels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> NotebookFigure:
    """Counts as bars, a plot a name: a group of bars a row, a bar a series.

    Args:
        panels: plot title → row → series → count.
    """
    rows = max(plots.plot_rows(len(panels)), 1)
    return draw_figure(lambda figure: plots.counts(figure, panels), height=0.6 + 2.2 * rows)
