"""Plots of tables: `<!-- plot: COLUMN; COLUMN -->` above a table of a page draws those columns, row by row."""

import re
from functools import partial

from corank.analysis import plots
from corank.analysis.plots import Panels

PLOT = re.compile(r"^<!-- plot: (.+) -->\n\n?((?:\|.*\n)+)", re.MULTILINE)
NUMBER = r"[−+-]?(?:\d[\d,]*)?\.?\d+"
VALUE = re.compile(rf"({NUMBER})(?: ?%)?(?: \[({NUMBER}), ({NUMBER})\])?")
INCHES = 0.3
"""Height of a row."""


def read_plot(found: re.Match[str]) -> Panels:
    """Read a table that asks for a plot: of one with differences, which have a sign, those alone.

    Raises ValueError if it has no such column, or no numbers in them.
    """
    head, _, *lines = ([_plain(part) for part in row.strip("|").split("|")] for row in found[2].splitlines())
    wanted = [column.strip() for column in found[1].split(";")]
    if missing := ", ".join(column for column in wanted if column not in head):
        raise ValueError(f"plot: the table below has no column {missing}; it has {', '.join(head)}")
    places = [head.index(column) for column in wanted]
    lines = [line for line in lines if any(VALUE.match(line[place]) for place in places)]
    if any(line[place].startswith("+") for line in lines for place in places):
        lines = [line for line in lines if line[places[0]].startswith(("+", "−"))]
    if not lines:
        raise ValueError(f"plot: no numbers in {', '.join(wanted)}")
    names = [line[0] for line in lines]
    rows = [line[0] if names.count(line[0]) == 1 else f"{line[0]}, {line[1]}" for line in lines]
    return {head[n]: {row: _value(line[n]) for row, line in zip(rows, lines, strict=True)} for n in places}


def _plain(text: str) -> str:
    """A cell without its Markdown."""
    return re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)).strip()


def _value(text: str) -> tuple[float, float, float]:
    """A cell's value, and the bounds of its interval; NaN, which is not drawn, for what it has not."""
    written = VALUE.match(text)
    parts = written.groups("nan") if written else ["nan"] * 3
    value, low, high = (float(part.replace("−", "-").replace(",", "")) for part in parts)
    return value, low, high


def draw(panels: Panels) -> str:
    """Draw the values of each column with their intervals, row by row, as SVG; differences around a line at 0."""
    drawn = [value for panel in panels.values() for value, *_ in panel.values()]
    chart = partial(plots.plot_values, panels=panels, from_zero=any(value < 0 for value in drawn))
    return plots.Drawing.of(chart, 0.7 + INCHES * len(drawn) / len(panels)).svg


def describe(panels: Panels) -> str:
    """What a plot shows, for who cannot see it."""
    return f"{', '.join(panels)} of {', '.join(next(iter(panels.values())))}"
