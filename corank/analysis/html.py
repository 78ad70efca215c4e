"""Draws a view as one self-contained HTML page, which loads nothing from a network, or as a notebook's cell.

matplotlib is loaded when a plot is drawn.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Self

from corank.analysis import colours
from corank.core import view as parts
from corank.core.artifact_cache import write_file
from corank.core.files import write_bytes, write_text
from corank.core.lazy import lazy
from corank.core.objects import Location

if TYPE_CHECKING:
    from corank.analysis import plots
    from corank.analysis.plots import Drawing
else:
    plots = lazy("corank.analysis.plots")


class Html(str):
    """A page, and the drawings in it, in their order, each with the name of its section for its files."""

    drawings: "tuple[tuple[str, Drawing], ...]"

    def __new__(cls, markup: str, drawings: "Iterable[tuple[str, Drawing]]" = ()) -> Self:
        """Take a page's text."""
        made = super().__new__(cls, markup)
        made.drawings = tuple(drawings)
        return made


_NAME_LENGTH = 80

_CSS = """
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; color: var(--ink); background: var(--ground);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif }
body.wide { max-width: 100rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--rule);
  overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere }
.lead, figcaption, small { color: var(--faint) }
.good, .bad { font-weight: 600; color: var(--good) }
.bad { color: var(--bad) }
figure, .table { margin: 1rem 0; overflow-x: auto }
figcaption { font-size: .9rem; max-width: 46rem }
figure svg { display: block; width: 100%; max-width: 60rem; min-width: 36rem; height: auto }
figure svg text { font-family: inherit !important }
.beside { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 0 3rem }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.35; font-variant-numeric: tabular-nums }
th, td { padding: .3rem 1.4rem .3rem 0; text-align: right; vertical-align: top; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { white-space: normal; vertical-align: bottom }
th.left, td.left, th.prose, td.prose { text-align: left }
th.prose, td.prose { white-space: normal; min-width: 9rem }
thead > tr > * { border-bottom: 1px solid var(--faint) }
tbody td { border-bottom: 1px solid var(--rule) }
td small { font-size: .8rem; margin-left: .6rem }
td:first-child small { display: block; margin: 0 }
.share { display: grid; grid-template-columns: minmax(0, 1fr) 3.6rem; align-items: center; gap: .5rem;
  text-align: left; white-space: nowrap }
.share::before { content: ""; height: 2.8rem;
  background: color-mix(in srgb, var(--hue0) 38%, var(--ground));
  clip-path: polygon(calc(50% - max(1px, var(--top))) 0, calc(50% + max(1px, var(--top))) 0,
  calc(50% + max(1px, var(--bottom))) 100%, calc(50% - max(1px, var(--bottom))) 100%) }
table:has(.share) { width: 100%; max-width: 46rem; table-layout: fixed }
table:has(.share) :is(th, td) { padding: 0 .3rem; border: 0; white-space: normal; text-align: center;
  vertical-align: middle }
table:has(.share) th { vertical-align: bottom; padding: 0 4.4rem .4rem .3rem }
table:has(.share) :is(th, td):first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere }
pre { font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-x: auto; padding: 1rem;
  background: var(--panel) }
summary { cursor: pointer }
:focus-visible { outline: 2px solid var(--hue0); outline-offset: 2px }
@media (max-width: 40rem) { th:first-child, td:first-child { white-space: normal; min-width: 6.5rem;
  overflow-wrap: anywhere } th, td { padding-right: .7rem } td small { display: block; margin: 0 } }
@media (max-width: 70rem) { .beside { grid-template-columns: minmax(0, 1fr) } }
@media print { :root { color-scheme: light } body { font-size: 11pt; padding: 0; max-width: none }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } figure svg { min-width: 0 }
  pre { white-space: pre-wrap } }
"""


def _palette() -> dict[str, tuple[str, str]]:
    """Name of a colour → on a light and on a dark ground."""
    dark = ("#5b9bd5", "#e0805c", "#7fb972", "#ab8fd0", "#cfa93a", "#62b3c9")
    return {
        "ink": (colours.INK, "#e2e6eb"),
        "faint": (colours.FAINT, "#98a2ae"),
        "rule": (colours.RULE, "#2e343c"),
        "good": (colours.GOOD, "#7fca83"),
        "bad": (colours.BAD, "#ff8f85"),
        **{f"hue{n}": pair for n, pair in enumerate(zip(colours.COLOURS, dark, strict=True))},
    }


def _css() -> str:
    named = {"ground": ("#fff", "#14171b"), "panel": ("#f6f7f9", "#1b1f25")} | _palette()
    lines = "; ".join(f"--{name}: light-dark({light}, {dark})" for name, (light, dark) in named.items())
    return f":root {{ color-scheme: light dark; {lines} }}{_CSS}"


def render(view: parts.View) -> Html:
    """The page of a view."""
    drawings: list[tuple[str, Drawing]] = []
    sections = "".join(_section(part, drawings) for part in view.sections)
    kind = ' class="wide"' if view.wide else ""
    title = escape(view.title)
    return Html(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_css()}</style></head>\n"
        f'<body{kind}><main><h1>{title}</h1>\n<p class="lead">{escape(view.lead)}</p>\n{sections}</main>'
        "</body></html>\n",
        drawings,
    )


def render_part(view: parts.View) -> str:
    """Paragraphs and tables of a view without its plots, for the output of a notebook's cell."""
    shown: list[parts.Block] = []
    for part in view.sections:
        blocks = [block for block in part.blocks if not isinstance(block, parts.Plot | parts.Detail)]
        shown += [parts.Heading(part.title), *blocks] if part.title and blocks else blocks
    return f"<p><b>{escape(view.lead)}</b></p>\n{_blocks(shown, [])}"


def _section(section: parts.Section, drawings: "list[tuple[str, Drawing]]") -> str:
    """A titled section, which names its drawings."""
    own: list[Drawing] = []
    content = _blocks(section.blocks, own)
    name = re.sub(r"\W+", "-", section.title.lower()).strip("-_")[:_NAME_LENGTH] or "figure"
    drawings += ((name, drawing) for drawing in own)
    return f"<section><h2>{escape(section.title)}</h2>\n{content}</section>\n"


def _blocks(blocks: Sequence[parts.Block], drawings: "list[Drawing]") -> str:
    return "".join(_block(block, drawings) for block in blocks)


def _block(block: parts.Block, drawings: "list[Drawing]") -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>\n"
        case parts.Heading(text):
            return f"<h3>{escape(text)}</h3>\n"
        case parts.Table():
            return (f"<h3>{escape(block.title)}</h3>\n" if block.title else "") + _table(block)
        case parts.Plot():
            drawings.append(plots.Drawing.of(block.draw, block.height))
            return _figure(drawings[-1].svg, block.caption)
        case parts.Folded(summary, text):
            return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>\n"
        case parts.Detail(blocks):
            return _blocks(blocks, drawings)
        case parts.Beside():
            columns = "".join(f"<div>{_blocks(column, drawings)}</div>" for column in block.columns)
            return f'<div class="beside">{columns}</div>\n'


def _table(table: parts.Table) -> str:
    kinds = dict.fromkeys(table.left, ' class="left"') | dict.fromkeys(table.prose, ' class="prose"')
    marks = [kinds.get(name, "") for name in table.columns]
    head = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>' if name else "<td></td>"
        for name, mark in zip(table.columns, marks, strict=True)
    )
    rows = ["".join(f"<td{m}>{_cell(c)}</td>" for c, m in zip(row, marks, strict=True)) for row in table.rows]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    content = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="table" tabindex="0"><table>{content}</table></div>\n'  # keys must reach what scrolls sideways


def _cell(cell: parts.Cell) -> str:
    match cell:
        case parts.Noted(text, note):
            return f"{escape(text)}<small>{escape(note)}</small>"
        case parts.Verdict(text, sign):
            kind = "good" if sign > 0 else "bad"
            return f'<span class="{kind}">{escape(text)}</span>' if sign else escape(text)
        case parts.Share(text, share, below):
            ends = f"--top:{50 * share:.3f}%;--bottom:{50 * below:.3f}%"
            return f'<span class="share" style="{ends}">{escape(text)}</span>'
        case _:
            return escape(cell)


def _figure(svg: str, caption: str) -> str:
    """An inline SVG figure with a caption, also its accessible label. The same drawing gives the same markup."""
    svg = svg[svg.index("<svg") :]
    names = {light: name for name, (light, _) in _palette().items()}
    named = re.compile(rf"(?<=: )({'|'.join(names)})(?=[;\"])")
    # colours by name, of which the page has a light and a dark one; > in a tag is escaped
    svg = re.sub(r"<[^>]*>", lambda tag: named.sub(lambda c: f"var(--{names[c[0]]})", tag[0]), svg)
    label = escape(caption, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return f'<figure tabindex="0">{svg}<figcaption>{escape(caption)}</figcaption></figure>\n'


def write_page(view: parts.View, page: Location, figures: Location | None = None) -> Html:
    """Write the page of a view whole, and its drawings into a folder if one is given. Raises CorankError."""
    html = render(view)
    with write_file(page) as path:
        write_text(path, html)
    if figures is not None:
        write_drawings(html, figures)
    return html


def write_drawings(found: Html, folder: Location) -> list[str]:
    """Write each figure of a page as SVG and PNG, named after its section; return the names of the files.

    Several figures of a section are numbered from 1. Raises CorankError if a file cannot be written.
    """
    of, seen = Counter(name for name, _ in found.drawings), Counter[str]()
    written = []
    for section, drawing in found.drawings:
        seen[section] += 1
        name = section if of[section] == 1 else f"{section}-{seen[section]}"
        for file, content in ((f"{name}.svg", drawing.svg.encode()), (f"{name}.png", drawing.png())):
            with write_file(folder / file) as path:
                write_bytes(path, content)
            written.append(file)
    return written
