"""Arrays → plots. Each function draws one kind of plot on an empty figure.

A drawing is one matplotlib figure, as SVG for a page and as SVG or PNG for slides.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.special import logit

from corank.analysis.colours import COLOURS, FAINT, INK, RULE
from corank.core.formatting import format_figure
from corank.core.types import Array

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


ACROSS = 3
"""Small plots in a row."""
TITLE_LENGTH = 26
"""Characters of a line of a small plot's title, which has room above its plot."""
LEAST_SHARE = 0.1
"""Range of a small plot's y axis as a share of the largest value, unless the values need more."""
PROBABILITIES = (1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)


class Series(NamedTuple):
    """Points of a line: (P,) each, with the bounds of y if they are known."""

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


def plot_rows(plots: int) -> int:
    """Number of rows that `small_plots` uses for so many plots."""
    return -(-plots // ACROSS)


def small_plots(
    figure: Figure, plots: Mapping[str, Mapping[str, Series]], x: str, markers: bool = False
) -> None:
    """Draw one small plot a name, with its lines by name.

    Args:
        figure: an empty figure.
        plots: plot title → line label → points.
        x: label of the x axis.
        markers: draw the points as they are; otherwise they are pale behind their running mean.
    """
    axes = figure.subplots(plot_rows(len(plots)), ACROSS, squeeze=False).ravel()
    for part, (name, lines) in zip(axes, plots.items(), strict=False):
        for n, (label, line) in enumerate(lines.items()):
            if markers:
                part.plot(line.x, line.y, marker="o", label=label)
                continue
            part.plot(line.x, line.y, color=COLOURS[n], linestyle="-", alpha=0.25, linewidth=0.8)
            part.plot(line.x, smooth(line.y), color=COLOURS[n], linestyle="-", label=label)
        widen_y(part, LEAST_SHARE * max(map(abs, part.get_ylim())))
        part.set_title(wrap_name(name, TITLE_LENGTH))
        part.set_xlabel(x)
        part.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        part.yaxis.set_major_locator(MaxNLocator(4))
        part.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format_figure(y)))
    for part in axes[len(plots) :]:
        part.set_visible(False)
    _legend(figure, axes[0])


def smooth(values: Array) -> NDArray[np.float64]:
    """Running mean over a window of a fifth of the values; the window shrinks towards the ends: (P,) → (P,)."""
    window = np.ones(len(values) // 10 * 2 + 1)
    count = np.convolve(np.ones(len(values)), window, "same")
    mean: NDArray[np.float64] = np.convolve(values, window, "same") / count
    return mean


def plot_reliability(figure: Figure, panels: Mapping[str, Mapping[str, Series]]) -> None:
    """Draw the observed against the predicted rate, with the diagonal of perfect calibration."""
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    lines = [line for panel in panels.values() for line in panel.values()]
    ends = np.concatenate([np.concatenate([line.x, line.y]) for line in lines])
    logarithmic = ends.min() > 0
    low, high = (ends.min() / 1.25, ends.max() * 1.25) if logarithmic else (0, ends.max() * 1.1)
    for part, (name, panel) in zip(axes, panels.items(), strict=True):
        part.plot([low, high], [low, high], color=FAINT, linestyle="-", linewidth=0.8)
        for n, (label, line) in enumerate(panel.items()):
            assert line.low is not None and line.high is not None
            part.vlines(line.x, line.low, line.high, color=COLOURS[n], linestyle="-", alpha=0.4, linewidth=1)
            part.plot(line.x, line.y, marker="o", color=COLOURS[n], linestyle=LINES[n], label=label)
        part.set_title(name)
        part.set_xlabel("predicted")
        if logarithmic:
            part.set(xscale="log", yscale="log")
        for axis in (part.xaxis, part.yaxis):
            if logarithmic:
                axis.set_major_locator(FixedLocator(_ticks(low, high)))
                axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
        part.set(xlim=(low, high), ylim=(low, high))
    axes[0].set_ylabel("observed")
    _legend(figure, axes[0])


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … between two positive numbers, about eight at most."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**n for n in decades for step in steps if low <= step * 10.0**n <= high]


def _percent(value: float) -> str:
    return f"{value * 100:.4g} %"


def distributions(figure: Figure, panels: Mapping[str, Mapping[str, tuple[Array, Array]]]) -> None:
    """Draw densities of log-odds: panel → name → (log-odds, weights). The last name is highlighted."""
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    everything = np.concatenate([odds for panel in panels.values() for odds, _ in panel.values()])
    low, high = np.quantile(everything, [0.0005, 0.9995])
    edges = np.linspace(low - 0.25, high + 0.25, 61)
    for part, (name, panel) in zip(axes, panels.items(), strict=True):
        shades = [*colormaps["Blues"](np.linspace(0.4, 0.8, len(panel) - 1)), COLOURS[1]]
        for (label, (odds, weight)), shade in zip(panel.items(), shades, strict=True):
            density, _ = np.histogram(odds, edges, weights=weight, density=True)
            part.stairs(density, edges, color=shade, linewidth=1.6, label=label)
        part.set_title(name)
        part.set_xlabel("calibrated probability")
        inside = [p for p in PROBABILITIES if edges[0] <= logit(p) <= edges[-1]]
        part.set_xticks(logit(inside), [_percent(p) for p in inside])
        part.set_yticks([])
    axes[0].set_ylabel("density")
    _legend(figure, axes[0])


class RankPair(NamedTuple):
    """Ranks of the same C candidates by two stages."""

    x: Array
    """Ranks by the first stage, from 1: (C,)."""
    y: Array
    """Ranks by the second stage, from 1: (C,)."""
    x_keep: int
    y_keep: int
    names: tuple[str, str]


def rank_heatmap(figure: Figure, panels: Sequence[RankPair]) -> None:
    """Draw the density of candidates over the ranks by two stages, 1 at the densest cell."""
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for part, panel in zip(axes, panels, strict=True):
        edges = _rank_edges(int(panel.x.max()))
        count, _, _ = np.histogram2d(panel.x, panel.y, (edges, edges))
        density = count / np.outer(np.diff(edges), np.diff(edges))
        shown = np.ma.masked_equal(density.T / density.max(), 0)
        image = part.pcolormesh(
            edges, edges, shown, cmap="YlGnBu", norm=LogNorm(max(shown.min(), 1e-3), 1), rasterized=True
        )
        part.set_facecolor("white")  # distinguishes the densest cells from empty ones on a dark page, too
        part.axvline(panel.x_keep + 0.5, color=COLOURS[1], linestyle="--", linewidth=1)
        part.axhline(panel.y_keep + 0.5, color=COLOURS[1], linestyle="--", linewidth=1)
        part.set(xscale="log", yscale="log", aspect="equal", xlim=edges[[0, -1]], ylim=edges[[0, -1]])
        part.set_xlabel(f"rank by {panel.names[0]} (keeps {panel.x_keep})")
        part.set_ylabel(f"rank by {panel.names[1]} (keeps {panel.y_keep})")
        for axis in (part.xaxis, part.yaxis):
            axis.set_major_locator(FixedLocator(_ticks(1, edges[-1])))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        part.grid(False)
    bar = figure.colorbar(image, ax=axes, label="density, 1 at the densest", shrink=0.9)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")


def _rank_edges(last: int) -> NDArray[np.float64]:
    """Edges of the cells: one rank a cell at the top, cells of equal width on a log scale further down."""
    return np.unique(np.round(np.geomspace(1, last + 1, 40))) - 0.5


def plot_quota_curve(
    figure: Figure, recalls: Mapping[str, Series], random: Series, cost: Series, keep: int, stage: str
) -> None:
    """Draw recall and CPU time against the quota of a stage, with its configured quota marked."""
    left, right = figure.subplots(1, 2, sharex=True)
    for label, line in recalls.items():
        (drawn,) = left.plot(line.x, line.y, label=label)
        if line.low is not None and line.high is not None:
            left.fill_between(line.x, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    left.plot(random.x, random.y, color=FAINT, linestyle=":", label="random order")
    left.set(title="recall", ylim=(0, 1.03))
    right.plot(cost.x, cost.y, marker="o")
    right.set(title="CPU time a request, ms", ylim=(0, float(cost.y.max()) * 1.1))
    for part in (left, right):
        part.axvline(keep, color=FAINT, linestyle="--", linewidth=1)
        part.set_xlabel(f"candidates that {stage} keeps (config: {keep})")
    _legend(figure, left)


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the plots."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=min(len(handles), 6))


def intervals(
    figure: Figure,
    panels: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]],
    colours: Mapping[str, str] | None = None,
) -> None:
    """Draw values with their intervals: one panel a metric, one row a name, a line at 0.

    Args:
        figure: an empty figure.
        panels: panel → row → value, and the bounds of its interval if they are known.
        colours: row → its colour; by default rows whose interval contains 0 are grey.
    """
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]

    def colour(row: str, low: float | None, high: float | None) -> tuple[str, str]:
        sure = low is not None and high is not None and (low > 0 or high < 0)
        return (colours[row] if colours else COLOURS[0] if sure else FAINT,) * 2

    for part in axes:
        part.axvline(0, color=FAINT, linestyle="-", linewidth=1)
        part.xaxis.set_major_locator(MaxNLocator(3))
        part.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    _draw_rows(axes, panels, colour)


def values(
    figure: Figure, panels: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]]
) -> None:
    """Draw values with their intervals, one panel a stage, one row a name; no value is special."""
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    _draw_rows(axes, panels, lambda row, low, high: (FAINT, COLOURS[0]))
    for part in axes:
        part.xaxis.set_major_locator(MaxNLocator(4))


def _draw_rows(
    axes: Sequence[Axes],
    panels: Mapping[str, Mapping[str, tuple[float, float | None, float | None]]],
    colours: Callable[[str, float | None, float | None], tuple[str, str]],
) -> None:
    """Draw each value as a dot on the line of its interval; `colours` gives those of the line and of the dot."""
    for part, (name, rows) in zip(axes, panels.items(), strict=True):
        for y, (row, (value, low, high)) in enumerate(rows.items()):
            line, dot = colours(row, low, high)
            if low is not None and high is not None:
                part.plot([low, high], [y, y], color=line, linestyle="-", linewidth=1.6)
            part.plot([value], [y], color=dot, linestyle="none", marker="o", markersize=5)
        part.set_title(wrap_name(name, ACROSS * TITLE_LENGTH // len(panels)), fontsize=8)
        part.set(ylim=(len(rows) - 0.5, -0.5))
        part.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(rows)), list(rows))


def counts(figure: Figure, panels: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
    """Draw counts as bars from 0: one small plot a panel, a group of bars a row, a bar a series.

    Args:
        figure: an empty figure.
        panels: plot title → row → series → count; all rows of a plot have the same series.
    """
    axes = figure.subplots(plot_rows(len(panels)), ACROSS, squeeze=False).ravel()
    for part, (name, rows) in zip(axes, panels.items(), strict=False):
        series = list(dict.fromkeys(label for row in rows.values() for label in row))
        wide = 0.8 / max(len(series), 1)
        for n, label in enumerate(series):
            places = [at - 0.4 + (n + 0.5) * wide for at in range(len(rows))]
            heights = [row.get(label, 0) for row in rows.values()]
            part.bar(places, heights, width=wide, color=COLOURS[n % len(COLOURS)], label=label)
        part.set_title(wrap_name(name, TITLE_LENGTH), fontsize=8)
        part.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
        part.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        part.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        part.grid(axis="x", visible=False)
    for part in axes[len(panels) :]:
        part.set_visible(False)
    _legend(figure, axes[0])


def scatters(figure: Figure, panels: Mapping[str, Series], y: str, groups: Sequence[str]) -> None:
    """Draw the points of each panel against a common y, coloured by group."""
    axes = figure.subplots(plot_rows(len(panels)), ACROSS, sharey=True, squeeze=False)
    shades = colormaps["tab20"](np.linspace(0, 1, 20))
    names = list(dict.fromkeys(groups))
    of = np.array([names.index(group) for group in groups])
    for part, (name, points) in zip(axes.ravel(), panels.items(), strict=False):
        for n, group in enumerate(names):
            here = of == n
            shade = shades[n % len(shades)]
            part.plot(points.x[here], points.y[here], color=shade, linestyle="none", marker="o", label=group)
        part.set_xlabel(name)
        part.xaxis.set_major_locator(MaxNLocator(4))
    for part in axes.ravel()[len(panels) :]:
        part.set_visible(False)
    for row in axes:
        row[0].set_ylabel(y)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=8)
