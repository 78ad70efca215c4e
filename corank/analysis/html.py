"""One self-contained HTML page of text, tables and plots. It loads nothing from a network.

`Html` is safe markup. A plain `str` is text and is escaped.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NewType

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

Html = NewType("Html", str)
Cell = str | tuple[str, str]
"""A text, or a text and a small note beside it, such as an interval."""

INK, FAINT, RULE = "#22272e", "#68717c", "#dde1e6"
COLOURS = ("#1f5f99", "#c2502e", "#4c8a3f", "#7d5ba6", "#b08500", "#3b8ea5")
LINES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1)), (0, (5, 1)))
"""Line styles that go with the colours, so that lines can be told apart in black and white."""

_PLOT: Any = {
    # text stays text: the page's own font shows it, and it can be searched and copied
    "svg.fonttype": "none",
    "svg.hashsalt": "corank",
    # a name may hold a $
    "text.parse_math": False,
    "font.size": 9,
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

_CSS = (
    """
:root { color-scheme: light }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 54rem; color: INK; background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; padding-top: 1rem; border-top: 1px solid RULE }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere }
.lead, figcaption, small { color: FAINT }
figure, .table { margin: 1rem 0; overflow-x: auto }
figcaption { font-size: .9rem; max-width: 46rem }
figure svg { display: block; width: 100%; min-width: 36rem; height: auto }
figure svg text { font-family: inherit !important }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.35; font-variant-numeric: tabular-nums }
th, td { padding: .3rem 1.4rem .3rem 0; text-align: right; vertical-align: top; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 1px solid FAINT }
tbody td { border-bottom: 1px solid RULE }
td small { font-size: .8rem; margin-left: .6rem }
pre { font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-x: auto; padding: 1rem;
  background: #f6f7f9 }
summary { cursor: pointer }
@media print { body { font-size: 11pt; padding: 0; max-width: none } figure, tr { break-inside: avoid }
  h2, h3 { break-after: avoid } figure svg { min-width: 0 } pre { white-space: pre-wrap } }
""".replace("INK", INK)
    .replace("FAINT", FAINT)
    .replace("RULE", RULE)
)


def text(words: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(words)}</p>\n")


def heading(words: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(words)}</h3>\n")


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """A table. The first column is left-aligned, the others are right-aligned."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return Html(
        f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'
    )


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    return f"<td>{escape(cell[0])}<small>{escape(cell[1])}</small></td>"


def plot(draw: Callable[[Figure], object], caption: str, height: float = 3.0) -> Html:
    """An inline SVG figure with a caption.

    Args:
        draw: draws on an empty figure as wide as the page.
        caption: text below the figure, also its accessible label.
        height: inches.

    The same drawing gives the same markup, byte for byte.
    """
    written = io.StringIO()
    with matplotlib.rc_context(_PLOT):
        figure = Figure(figsize=(7.6, height))
        draw(figure)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    label = escape(caption, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return Html(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n")


def folded(summary: str, words: str) -> Html:
    """A preformatted text that the reader unfolds."""
    return Html(f"<details><summary>{escape(summary)}</summary><pre>{escape(words)}</pre></details>\n")


def section(title: str, *parts: Html) -> Html:
    """A titled section."""
    return Html(f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n")


def page(title: str, lead: str, *parts: Html, css: str = "", refresh_s: int | None = None) -> Html:
    """A whole document.

    Args:
        title: of the page.
        lead: one introductory sentence.
        parts: sections.
        css: rules beside those of all pages.
        refresh_s: seconds after which a browser reads the page again; never unless given.
    """
    refresh = "" if refresh_s is None else f'<meta http-equiv="refresh" content="{refresh_s}">\n'
    return Html(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{refresh}<title>{escape(title)}</title>\n<style>{_CSS}{css}</style></head>\n"
        f'<body><h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{"".join(parts)}</body></html>\n'
    )
