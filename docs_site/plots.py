"""Plots of tables: `<!-- plot: COLUMN; COLUMN -->` above a table of a page draws those columns, row by row."""

import html
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

PLOT = re.compile(r"^<!-- plot: (.+) -->\n\n?((?:\|.*\n)+)", re.MULTILINE)
NUMBER = r"[−+-]?(?:\d[\d,]*)?\.?\d+"
VALUE = re.compile(rf"({NUMBER})(?: ?%)?(?: \[({NUMBER}), ({NUMBER})\])?")
COLOURS = ("#3b5bdb", "#e8590c", "#2b8a3e", "#ae3ec9", "#495057", "#c92a2a")
LABELS, WIDTH, STEP = 330, 430, 13
"""Width of the labels, width of the plot, height of a mark."""


@dataclass(frozen=True)
class Mark:
    """A value of a table, with its 95 % interval if it has one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """Marks by row and column."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Mark | None]]]

    @property
    def title(self) -> str:
        """What it shows, for who cannot see it."""
        return f"{', '.join(self.columns)} of {', '.join(label for label, _ in self.rows)}"


def read_plots(text: str) -> Iterator[tuple[re.Match[str], Plot]]:
    """Find the tables of a page that ask for a plot. Raises ValueError if one has no such column, or no numbers."""
    for found in PLOT.finditer(text):
        lines = [[_plain(part) for part in line.strip("|").split("|")] for line in found[2].splitlines()]
        wanted = [column.strip() for column in found[1].split(";")]
        if missing := [column for column in wanted if column not in lines[0]]:
            raise ValueError(
                f"plot: the table below has no column {', '.join(missing)}; it has {', '.join(lines[0])}"
            )
        places = [lines[0].index(column) for column in wanted]
        names = [line[0] for line in lines[2:]]
        labels = [
            f"{n}, {line[1]}" if names.count(n) > 1 else n for n, line in zip(names, lines[2:], strict=True)
        ]
        marks = [[_mark(line[place]) for place in places] for line in lines[2:]]
        rows = list(zip(labels, marks, strict=True))
        rows = [row for row in rows if any(row[1])]
        if not rows:
            raise ValueError(f"plot: no numbers in {', '.join(wanted)}")
        yield found, Plot(wanted, rows)


def _plain(text: str) -> str:
    """A cell without its Markdown."""
    return re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)).strip()


def _mark(text: str) -> Mark | None:
    found = VALUE.match(text)
    if not found:
        return None
    value, low, high = (_number(part) if part else None for part in found.groups())
    assert value is not None
    return Mark(value, value if low is None else low, value if high is None else high)


def _number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def ticks(low: float, high: float) -> list[float]:
    """Round values, about five, that cover a range."""
    rough = (high - low or abs(high) or 1) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = min((m * unit for m in (1, 2, 5, 10) if m * unit >= rough), default=10 * unit)
    first = math.floor(low / step)
    return [step * n for n in range(first, max(math.ceil(high / step), first + 1) + 1)]


def draw(plot: Plot) -> str:
    """Draw marks with their intervals, row by row, as SVG."""
    marks = [mark for _, row in plot.rows for mark in row if mark]
    axis = ticks(min(mark.low for mark in marks), max(mark.high for mark in marks))

    def x(value: float) -> float:
        return LABELS + 10 + (value - axis[0]) / (axis[-1] - axis[0]) * WIDTH

    several = len(plot.columns) > 1
    top, height = 34 if several else 14, len(plot.columns) * STEP + 9
    bottom = top + height * len(plot.rows)
    body = list(_legend(plot.columns)) if several else []
    for tick in axis:
        dark = "#868e96" if abs(tick) < 1e-12 else "#dee2e6"
        body.append(f'<line x1="{x(tick):.1f}" y1="{top}" x2="{x(tick):.1f}" y2="{bottom}" stroke="{dark}"/>')
        body.append(_text(x(tick), bottom + 14, _written(tick, axis[1] - axis[0]), "middle"))
    for n, (label, row) in enumerate(plot.rows):
        y = top + height * n
        body.append(_text(LABELS, y + height / 2, label if len(label) <= 52 else f"{label[:51]}…", "end"))
        for m, mark in enumerate(row):
            if mark:
                body += _drawn(mark, x, y + 4 + STEP * (m + 0.5), COLOURS[m % len(COLOURS)])
    total = LABELS + WIDTH + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {bottom + 28}" width="{total}" '
        f'height="{bottom + 28}" font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">\n'
        f"<title>{html.escape(plot.title)}</title>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _drawn(mark: Mark, x: Callable[[float], float], y: float, colour: str) -> Iterator[str]:
    if mark.low != mark.high:
        yield (
            f'<line x1="{x(mark.low):.1f}" y1="{y:.1f}" x2="{x(mark.high):.1f}" y2="{y:.1f}" stroke="{colour}" '
            'stroke-width="2" stroke-opacity=".55"/>'
        )
    yield f'<circle cx="{x(mark.value):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _legend(columns: Sequence[str]) -> Iterator[str]:
    for n, column in enumerate(columns):
        at = LABELS + 14 + n * WIDTH / len(columns)
        yield f'<circle cx="{at:.1f}" cy="14" r="4" fill="{COLOURS[n % len(COLOURS)]}"/>'
        yield _text(at + 9, 14, column, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central" fill="#212529">'
        f"{html.escape(text)}</text>"
    )


def _written(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value + 0:,.{digits}f}".replace("-", "−")
