"""Figures of results: a figure of matplotlib that every notebook shows, also one that has not loaded pyplot."""

import io
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from corank.analysis import plots
from corank.analysis.colours import plot_rows


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


def draw_bars(panels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> NotebookFigure:
    """Counts as bars, a plot a name: a group of bars a row, a bar a series.

    Args:
        panels: plot title → row → series → count.
    """
    rows = max(plot_rows(len(panels)), 1)
    return draw_figure(lambda figure: plots.counts(figure, panels), height=0.6 + 2.2 * rows)
