"""Line charts as inline SVG, which are made in a millisecond: the page is written while a model trains."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from corank.analysis.html import Html, hue
from corank.core.formatting import format_figure

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
"""Margins around the lines, for the numbers of the axes."""

CSS = f"""
.charts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: .6rem 1.4rem }}
.charts figure {{ margin: .4rem 0 }}
.charts figure svg {{ min-width: 0 }}
.charts figcaption {{ color: var(--ink); font-weight: 600 }}
.charts .key {{ font-weight: 400; margin-left: .8rem; white-space: nowrap }}
.charts text {{ font-size: 11px; fill: var(--faint) }}
.charts .grid {{ stroke: var(--rule) }}
.charts polyline {{ fill: none; stroke-width: 1.8; stroke-linejoin: round }}
.charts .raw {{ stroke-width: .8; opacity: .3 }}
progress {{ width: 100%; max-width: 46rem; height: .7rem; accent-color: {hue(0)} }}
"""


class Line(NamedTuple):
    """A line of a chart: (P,) x and y."""

    x: Sequence[float]
    y: Sequence[float]
    raw: Sequence[float] | None = None
    """What `y` is the running mean of, drawn pale behind it: (P,)."""
    dots: bool = False
    """Whether points are marked."""


def line_chart(title: str, lines: Mapping[str, Line], x_label: str) -> Html:
    """A figure with a title, a key if there are several lines, and axes.

    Args:
        title: above the chart.
        lines: by name; each has a point at least.
        x_label: of the x axis, whose numbers are whole.
    """
    y_scale = _Scale.of(
        [v for line in lines.values() for v in [*line.y, *(line.raw or ())]], HEIGHT - BOTTOM, TOP
    )
    x_scale = _Scale.of([v for line in lines.values() for v in line.x], LEFT, WIDTH - RIGHT, whole=True)
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_scale(t):.1f}" y2="{y_scale(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y_scale(t) + 4:.1f}" text-anchor="end">{format_figure(t)}</text>'
        for t in y_scale.ticks
    )
    numbers = "".join(
        f'<text x="{x_scale(t):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{t:,.0f}</text>'
        for t in x_scale.ticks
    )
    name = f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    drawn = "".join(_draw(line, hue(n), x_scale, y_scale) for n, line in enumerate(lines.values()))
    label = escape(title, quote=True)
    return Html(
        f"<figure><figcaption>{escape(title)}{_key(lines)}</figcaption>"
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{grid}{numbers}{name}{drawn}</svg></figure>\n"
    )


def charts(*parts: Html) -> Html:
    """Charts side by side, as many as the window has room for."""
    return Html(f'<div class="charts">{"".join(parts)}</div>\n')


class _Scale(NamedTuple):
    """Numbers → places in the picture."""

    low: float
    high: float
    begin: float
    """Place of `low`."""
    end: float
    """Place of `high`."""
    ticks: Sequence[float]

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float, whole: bool = False) -> "_Scale":
        low, high = min(values), max(values)
        if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
            room = 0.5 if whole else max(abs(high) * 0.05, 1e-6)
            low, high = low - room, high + room
        ticks = MaxNLocator(4, integer=whole).tick_values(low, high)
        return cls(low, high, begin, end, [float(t) for t in ticks if low <= t <= high])

    def __call__(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def _draw(line: Line, colour: str, x_scale: _Scale, y_scale: _Scale) -> str:
    def points(values: Sequence[float]) -> str:
        return " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in zip(line.x, values, strict=True))

    raw = "" if line.raw is None else f'<polyline class="raw" stroke="{colour}" points="{points(line.raw)}"/>'
    dots = "".join(
        f'<circle cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="2.8" fill="{colour}"/>'
        for x, y in zip(line.x, line.y, strict=True)
        if line.dots or len(line.x) == 1
    )
    return f'{raw}<polyline stroke="{colour}" points="{points(line.y)}"/>{dots}'


def _key(lines: Mapping[str, Line]) -> str:
    if len(lines) < 2:
        return ""
    return "".join(
        f'<span class="key"><span style="color:{hue(n)}">●</span> {escape(name)}</span>'
        for n, name in enumerate(lines)
    )
