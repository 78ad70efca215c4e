"""One matplotlib figure, as SVG for a page and as SVG or PNG for slides."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT, RULE = "#22272e", "#626b76", "#dde1e6"
GOOD, BAD = "#2f7a33", "#b3261e"
"""Colours of better and worse."""
COLOURS = ("#1f5f99", "#c2502e", "#4c8a3f", "#7d5ba6", "#b08500", "#3b8ea5")
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1)), (0, (5, 1)))
"""Line styles paired with the colours, so that lines differ in black and white, too."""
WIDTH = 7.6
"""Inches of every figure."""
PNG_DPI = 250
"""1,900 pixels across, the width of a slide."""

_PLOT: Any = {
    # text stays text: the page's own font shows it, and it can be searched and copied
    "svg.fonttype": "none",
    "svg.hashsalt": "corank",
    # a name may hold a $
    "text.parse_math": False,
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=LINES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    # ticks are whole numbers to read, not differences from one that stands at the end of the axis
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn, and can be drawn again.

    The same drawing gives the same bytes.
    """

    svg: str
    """A whole SVG file on a transparent ground."""
    draw: Callable[[Figure], object]
    height: float
    """Inches."""

    @classmethod
    def of(cls, draw: Callable[[Figure], object], height: float) -> "Drawing":
        """Draw on an empty figure of `WIDTH` × `height` inches."""
        written = io.StringIO()
        with matplotlib.rc_context(_PLOT):
            figure = Figure(figsize=(WIDTH, height))
            draw(figure)
            # not savefig, which draws a figure with a layout twice: first for its layout, then for the file
            FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
                written, metadata={"Date": None}
            )
        svg = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue(), flags=re.DOTALL)
        return cls(svg, draw, height)

    def png(self) -> bytes:
        """A PNG file on a white ground, `PNG_DPI` dots an inch."""
        written = io.BytesIO()
        with matplotlib.rc_context(_PLOT | {"figure.facecolor": "white"}):
            figure = Figure(figsize=(WIDTH, self.height), dpi=PNG_DPI)
            self.draw(figure)
            FigureCanvasAgg(figure).print_png(  # type: ignore[no-untyped-call]
                written, metadata={"Software": None}
            )
        return written.getvalue()


def wrap_name(name: str, most: int) -> str:
    """Break a name into lines of at most so many characters, after a dot, comma or space where there is one.

    Example:
        >>> wrap_name("rank.exposed.click.pcoc_calibrated", 26).splitlines()
        ['rank.exposed.click.', 'pcoc_calibrated']
    """
    return "\n".join(re.findall(rf".{{1,{most}}}(?:(?<=[., ])|$)|.{{1,{most}}}", name))


def widen_y(axes: Axes, least: float, from_zero: bool = False) -> None:
    """Let a y axis cover at least `least`, so that noise is not drawn as large as a change.

    Args:
        axes: what is drawn on it is there already.
        least: the least difference between the ends, in the axis' unit.
        from_zero: let the axis begin at 0; nothing on it is negative.
    """
    low, high = axes.get_ylim()
    room = max(least - (high - low), 0) / 2
    axes.set_ylim((0, max(high, least)) if from_zero else (low - room, high + room))
