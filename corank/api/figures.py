"""Figures of results: a figure of matplotlib that every notebook shows, also one that has not loaded pyplot."""

import io
from collections.abc import Callable

from matplotlib.figure import Figure


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
