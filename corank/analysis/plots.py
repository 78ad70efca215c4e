"""Arrays → plots. Each function draws one kind of plot on an empty figure.

A drawing is one matplotlib figure, as SVG for a page and as SVG or PNG for slides.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from corank.analysis.colours import ACROSS, COLOURS, FAINT, INK, RULE, plot_rows
from corank.core.formatting import format_figure
from corank.core.types import Array

LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1)), (0, (5, 1)))
"""Line styles paired with the colours, so that lines differ in black and white, too."""
WIDTH = 7.6
"""Inches of every figure."""
PNG_DPI = 250
"""1,900 pixels across, the width of a slide."""

_OFF = (
    "text.parse_math",  # a name may hold a $
    "axes.formatter.useoffset",  # ticks are whole numbers, not differences from one at the end of the axis
    "axes.spines.top",
    "axes.spines.right",
    "legend.frameon",
)
_PLOT: Any = {
    "svg.fonttype": "none",  # text stays text: the page's own font shows it, and it can be searched and copied
    "svg.hashsalt": "corank",
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=LINES),
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    **dict.fromkeys(("font.size", "axes.titlesize"), 9),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.grid", "axes.axisbelow", "figure.constrained_layout.use"), True),
    **dict.fromkeys(_OFF, False),
}
T = TypeVar("T")


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
        file = io.StringIO()
        with _drawn(draw, height) as figure:
            # not savefig, which draws a figure with a layout twice: first for its layout, then for the file
            FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # type: ignore[no-untyped-call]
        return cls(re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL), draw, height)

    def png(self) -> bytes:
        """A PNG file on a white ground, `PNG_DPI` dots an inch."""
        file = io.BytesIO()
        with _drawn(self.draw, self.height, {"figure.facecolor": "white", "figure.dpi": PNG_DPI}) as figure:
            FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # type: ignore[no-untyped-call]
        return file.getvalue()


@contextmanager
def _drawn(
    draw: Callable[[Figure], object], height: float, settings: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[Figure]:
    """A figure that is drawn, and must be printed with the same settings."""
    with matplotlib.rc_context(_PLOT | settings):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure)
        # they lie within what their axes take anyway; to measure them takes a sixth of the time of a drawing
        for spine in (spine for axes in figure.axes for spine in axes.spines.values()):
            spine.set_in_layout(False)
        yield figure


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


TITLE_LENGTH = 26
"""Characters of a line of a small plot's title, which has room above its plot."""
LEGEND_LENGTH = 110
"""Characters of a line of a legend."""
LEAST_SHARE = 0.1
"""Range of a small plot's y axis as a share of the largest value, unless the values need more."""


class Series(NamedTuple):
    """Points of a line: (P,) each, with the bounds of y if they are known."""

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


def lay_out(
    figure: Figure, panels: Mapping[str, T], across: int = 0, **shared: Any
) -> Iterator[tuple[Axes, str, T]]:
    """Empty plots with their titles and what is drawn on them, all in one row unless `across` are."""
    down = plot_rows(len(panels)) if across else 1
    axes = figure.subplots(down, across or len(panels), squeeze=False, **shared).ravel()
    for part in axes[len(panels) :]:
        part.set_visible(False)
    for part, (name, drawn) in zip(axes, panels.items(), strict=False):
        part.set_title(wrap_name(name, TITLE_LENGTH) if across else name)
        yield part, name, drawn
    _add_legend(figure, axes[0])


def small_plots(figure: Figure, plots: Mapping[str, Mapping[str, Series]], x: str) -> None:
    """Draw one small plot a name, with its lines by name.

    Args:
        figure: an empty figure.
        plots: plot title → line label → points.
        x: label of the x axis.
    """
    for part, _, lines in lay_out(figure, plots, ACROSS):
        for label, line in lines.items():
            part.plot(line.x, line.y, marker="o", label=label)
        widen_y(part, LEAST_SHARE * max(map(abs, part.get_ylim())))
        part.set_xlabel(x)
        part.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        part.yaxis.set_major_locator(MaxNLocator(4))
        part.yaxis.set_major_formatter(lambda y, _: format_figure(y))


def plot_reliability(figure: Figure, panels: Mapping[str, Mapping[str, Series]]) -> None:
    """Draw the observed against the predicted rate, with the diagonal of perfect calibration."""
    ends = np.concatenate([(*line.x, *line.y) for panel in panels.values() for line in panel.values()])
    logarithmic = ends.min() > 0
    low, high = (ends.min() / 1.25, ends.max() * 1.25) if logarithmic else (0, ends.max() * 1.1)
    for part, _, panel in lay_out(figure, panels, sharex=True, sharey=True):
        part.plot([low, high], [low, high], color=FAINT, linestyle="-", linewidth=0.8)
        for n, (label, line) in enumerate(panel.items()):
            assert line.low is not None and line.high is not None
            part.vlines(line.x, line.low, line.high, color=COLOURS[n], linestyle="-", alpha=0.4, linewidth=1)
            part.plot(line.x, line.y, marker="o", color=COLOURS[n], linestyle=LINES[n], label=label)
        part.set_xlabel("predicted")
        _scale(part, low, high, _percent, _ticks(low, high) if logarithmic else None)
    figure.axes[0].set_ylabel("observed")


def _scale(
    part: Axes, low: float, high: float, form: Callable[[float], str], ticks: Sequence[float] | None
) -> None:
    """Give both axes the same ends, and the form of their numbers; on a log scale with these ticks, if any."""
    for axis in (part.xaxis, part.yaxis):
        if ticks is not None:
            part.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: form(value))
    part.set(xlim=(low, high), ylim=(low, high))


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … between two positive numbers, about eight at most."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**n for n in decades for step in steps if low <= step * 10.0**n <= high]


def _percent(value: float) -> str:
    return f"{value * 100:.4g} %"


def plot_quota_curve(
    figure: Figure, recalls: Mapping[str, Series], random: Series, keep: int, stage: str
) -> None:
    """Draw recall against the quota of a stage, with its configured quota marked."""
    axes = figure.subplots()
    for label, line in recalls.items():
        (drawn,) = axes.plot(line.x, line.y, label=label)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    axes.plot(random.x, random.y, color=FAINT, linestyle=":", label="random order")
    axes.axvline(keep, color=FAINT, linestyle="--", linewidth=1)
    axes.set(ylabel="recall", ylim=(0, 1.03), xlabel=f"candidates that {stage} keeps (config: {keep})")
    _add_legend(figure, axes)


def plot_page_curve(
    figure: Figure, panels: Mapping[str, Series], weights: Sequence[float], chosen: int
) -> None:
    """Draw what pages are worth against how much differs on them, a panel a figure of worth.

    Args:
        figure: an empty figure.
        panels: what is drawn; x is the distance.
        weights: the strength, or λ, of each point.
        chosen: the point of the config.
    """
    for part, _, line in lay_out(figure, panels, sharex=True):
        assert line.low is not None and line.high is not None
        part.fill_between(line.x, line.low, line.high, color=COLOURS[0], alpha=0.15, linewidth=0)
        part.plot(line.x, line.y, marker="o", color=COLOURS[0])
        part.plot(line.x[chosen], line.y[chosen], marker="o", markersize=9, color=COLOURS[1])
        for n in {0, len(weights) // 2, len(weights) - 1, chosen}:
            part.annotate(
                f"{weights[n]:g}",
                (line.x[n], line.y[n]),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
            )
        part.margins(0.12, 0.18)
        part.set_xlabel("distance on the page")
        part.xaxis.set_major_locator(MaxNLocator(4))
        part.yaxis.set_major_locator(MaxNLocator(4))


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the plots."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        most = max(1, LEGEND_LENGTH // (max(map(len, labels)) + 6))
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(handles), most, 6))


Panels = Mapping[str, Mapping[str, tuple[float, float | None, float | None]]]
"""Panel → row → value, and the bounds of its interval if they are known."""


def plot_values(
    figure: Figure, panels: Panels, from_zero: bool = False, colours: Mapping[str, str] | None = None
) -> None:
    """Draw values with their intervals: each a dot on the line of its interval, one row a name.

    Args:
        figure: an empty figure.
        panels: what is drawn.
        from_zero: whether values are differences: there is a line at 0.
        colours: row → its colour; by default rows of differences whose interval contains 0 are grey.
    """
    for part, name, rows in lay_out(figure, panels, sharex=not from_zero, sharey=True):
        if from_zero:
            part.axvline(0, color=FAINT, linestyle="-", linewidth=1)
            part.xaxis.set_major_formatter(lambda x, _: f"{x:.4g}")
        part.xaxis.set_major_locator(MaxNLocator(3 if from_zero else 4))
        for y, (row, (value, low, high)) in enumerate(rows.items()):
            sure = low is not None and high is not None and (low > 0 or high < 0)
            own = colours[row] if colours else COLOURS[0] if sure or not from_zero else FAINT
            if low is not None and high is not None:
                line = own if from_zero else FAINT
                part.plot([low, high], [y, y], color=line, linestyle="-", linewidth=1.6)
            part.plot([value], [y], color=own, linestyle="none", marker="o", markersize=5)
        part.set_title(wrap_name(name, ACROSS * TITLE_LENGTH // len(panels)), fontsize=8)
        part.set(ylim=(len(rows) - 0.5, -0.5))
        part.grid(axis="y", visible=False)
    figure.axes[0].set_yticks(range(len(rows)), list(rows))
