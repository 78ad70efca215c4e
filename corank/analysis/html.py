"""One self-contained HTML page of text, tables and plots. It loads nothing from a network.

`Html` is safe markup. A plain `str` is text and is escaped.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Self

from matplotlib.figure import Figure

from corank.analysis.plots import BAD, COLOURS, FAINT, GOOD, INK, RULE, Drawing
from corank.core.files import write_bytes, write_text
from corank.core.local_copy import write_file
from corank.core.objects import Location
from corank.core.view import Beside, Block, Detail, Folded, Heading, Noted, Plot, Table, Verdict, View


@dataclass(frozen=True)
class NamedDrawing:
    """A drawing of a page, and the name of its files."""

    name: str
    drawing: Drawing


class Html(str):
    """Safe markup, and the drawings in it, in their order."""

    drawings: tuple[NamedDrawing, ...]

    def __new__(cls, markup: str, drawings: Iterable[NamedDrawing] = ()) -> Self:
        """Take a text as markup."""
        made = super().__new__(cls, markup)
        made.drawings = tuple(drawings)
        return made


Cell = str | tuple[str, str]
"""A text, markup, or a text with a small note, such as an interval."""

PALETTE = {
    "ink": (INK, "#e2e6eb"),
    "faint": (FAINT, "#98a2ae"),
    "rule": (RULE, "#2e343c"),
    "good": (GOOD, "#7fca83"),
    "bad": (BAD, "#ff8f85"),
    **{
        f"hue{n}": (light, dark)
        for n, (light, dark) in enumerate(
            zip(COLOURS, ("#5b9bd5", "#e0805c", "#7fb972", "#ab8fd0", "#cfa93a", "#62b3c9"), strict=True)
        )
    },
}
"""Name of a colour → on a light and on a dark ground."""


_NAMES = {light: name for name, (light, _) in PALETTE.items()}
_NAMED = re.compile(rf"(?<=: )({'|'.join(_NAMES)})(?=[;\"])")
_NAME_LENGTH = 80

_CSS = (
    ":root { color-scheme: light dark; --ground: light-dark(#fff, #14171b); --panel: light-dark(#f6f7f9, #1b1f25);\n  "
    + "; ".join(f"--{name}: light-dark({light}, {dark})" for name, (light, dark) in PALETTE.items())
    + """ }
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
thead th { white-space: normal }
th.prose, td.prose { text-align: left; white-space: normal; min-width: 9rem }
thead > tr > * { border-bottom: 1px solid var(--faint) }
tbody td { border-bottom: 1px solid var(--rule) }
td small { font-size: .8rem; margin-left: .6rem }
td:first-child small { display: block; margin: 0 }
pre { font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-x: auto; padding: 1rem;
  background: var(--panel) }
summary { cursor: pointer }
:focus-visible { outline: 2px solid var(--hue0); outline-offset: 2px }
@media (max-width: 70rem) { .beside { grid-template-columns: minmax(0, 1fr) } }
@media print { :root { color-scheme: light } body { font-size: 11pt; padding: 0; max-width: none }
  figure, tr { break-inside: avoid } h2, h3 { break-after: avoid } figure svg { min-width: 0 }
  pre { white-space: pre-wrap } }
"""
)


def text(words: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(words)}</p>\n")


def heading(words: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(words)}</h3>\n")


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], prose: Collection[str] = ()) -> Html:
    """A table. The first column is left-aligned, the others are right-aligned; `prose` are left-aligned and wrap."""
    classes = [' class="prose"' if name in prose else "" for name in header]
    head = "".join(
        f'<th scope="col"{mark}>{escape(name)}</th>' if name else "<td></td>"
        for name, mark in zip(header, classes, strict=True)
    )
    body = "".join("<tr>" + "".join(map(_cell, row, classes)) + "</tr>\n" for row in rows)
    # a part that is scrolled sideways must be reached by keys
    return Html(
        f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'
    )


def verdict(words: str, sign: float) -> Html:
    """Words of a table that say what is good or bad, in its colour: of sign 1 or -1; 0 is neither."""
    kind = "good" if sign > 0 else "bad"
    return Html(f'<span class="{kind}">{escape(words)}</span>' if sign else escape(words))


def _cell(cell: Cell, mark: str) -> str:
    if isinstance(cell, str):
        return f"<td{mark}>{cell if isinstance(cell, Html) else escape(cell)}</td>"
    return f"<td{mark}>{escape(cell[0])}<small>{escape(cell[1])}</small></td>"


def plot(draw: Callable[[Figure], object], caption: str, height: float = 3.0) -> Html:
    """An inline SVG figure with a caption.

    Args:
        draw: draws on an empty figure as wide as the page.
        caption: text below the figure, also its accessible label.
        height: inches.

    The same drawing gives the same markup, byte for byte.
    """
    drawing = Drawing.of(draw, height)
    svg = drawing.svg[drawing.svg.index("<svg") :]
    # colours by name, of which the page has a light and a dark one; > in a tag is escaped
    svg = re.sub(r"<[^>]*>", lambda tag: _NAMED.sub(lambda c: f"var(--{_NAMES[c[0]]})", tag[0]), svg)
    label = escape(caption, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return Html(
        f'<figure tabindex="0">{svg}<figcaption>{escape(caption)}</figcaption></figure>\n',
        [NamedDrawing("", drawing)],
    )


def joined(*parts: Html) -> Html:
    """Parts one after another."""
    return Html("".join(parts), _drawings(parts))


def beside(*parts: Html) -> Html:
    """Parts side by side, two in a row where the window is wide enough."""
    return Html(
        f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>\n', _drawings(parts)
    )


def folded(summary: str, words: str) -> Html:
    """A preformatted text that the reader unfolds."""
    return Html(f"<details><summary>{escape(summary)}</summary><pre>{escape(words)}</pre></details>\n")


def section(title: str, *parts: Html) -> Html:
    """A titled section, which names its drawings."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-_")[:_NAME_LENGTH] or "figure"
    named = [NamedDrawing(name, figure.drawing) for figure in _drawings(parts)]
    return Html(f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n", named)


def page(title: str, lead: str, *parts: Html, wide: bool = False) -> Html:
    """A whole document.

    Args:
        title: of the page.
        lead: one introductory sentence.
        parts: sections.
        wide: whether there is room for two figures side by side.
    """
    kind = ' class="wide"' if wide else ""
    return Html(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style></head>\n"
        f'<body{kind}><main><h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{"".join(parts)}</main>'
        "</body></html>\n",
        _drawings(parts),
    )


def render(view: View) -> Html:
    """The page of a view."""
    sections = (
        part if isinstance(part, Html) else section(part.title, *map(_render_block, part.blocks))  # type: ignore[unreachable]
        for part in view.sections
    )
    return page(view.title, view.lead, *sections, wide=view.wide)


def render_part(view: View) -> str:
    """Paragraphs and tables of a view without its plots, for the output of a notebook's cell."""
    blocks = [
        block for part in view.sections for block in part.blocks if not isinstance(block, Plot | Detail)
    ]
    return f"<p><b>{escape(view.lead)}</b></p>\n" + "".join(map(_render_block, blocks))


def _render_block(block: Block) -> Html:
    match block:
        case str():
            return text(block)
        case Heading():
            return heading(block.text)
        case Table():
            rows = [[_render_cell(cell) for cell in row] for row in block.rows]
            drawn = table(block.columns, rows, [*block.prose, *block.left])
            return joined(heading(block.title), drawn) if block.title else drawn
        case Plot():
            return plot(block.draw, block.caption, block.height)
        case Folded():
            return folded(block.summary, block.text)
        case Detail():
            return joined(*map(_render_block, block.blocks))
        case Beside():
            return beside(*(joined(*map(_render_block, column)) for column in block.columns))


def _render_cell(cell: str | Noted | Verdict) -> Cell:
    match cell:
        case Noted():
            return cell.text, cell.note
        case Verdict():
            return verdict(cell.text, cell.sign)
        case _:
            return cell


def _drawings(parts: Iterable[Html]) -> list[NamedDrawing]:
    return [drawing for part in parts for drawing in part.drawings]


def write_drawings(found: Html, folder: Location) -> list[str]:
    """Write each figure of a page as SVG and PNG, named after its section; return the names of the files.

    Several figures of a section are numbered from 1. Raises CorankError if a file cannot be written.
    """
    of = Counter(figure.name for figure in found.drawings)
    seen: Counter[str] = Counter()
    written = []
    for figure in found.drawings:
        seen[figure.name] += 1
        name = figure.name if of[figure.name] == 1 else f"{figure.name}-{seen[figure.name]}"
        with write_file(folder / f"{name}.svg") as path:
            write_text(path, figure.drawing.svg, "--figures")
        with write_file(folder / f"{name}.png") as path:
            write_bytes(path, figure.drawing.png(), "--figures")
        written += [f"{name}.svg", f"{name}.png"]
    return written
