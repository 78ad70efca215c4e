"""Output of the commands: lines on stderr, tables on stdout; one wider than the terminal is cut by its columns."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from corank.core.view import Beside, Block, Cell, Detail, Folded, Heading, Noted, Plot, Share, Verdict, View
from corank.core.view import Table as TableView

UNBOUNDED = 100_000


def fit_table(table: Table, console: Console, keys: int = 1) -> Iterator[Table]:
    """Cut a table by its columns, so that no word of it is broken; one that fits stays whole.

    Args:
        table: whose columns with `no_wrap` keep their width; others break between words.
        console: that it is for.
        keys: of the first columns, which every part has.
    """
    heads, rest = table.columns[:keys], table.columns[keys:]
    count = len(rest)
    while count > 1 and _width(_take(table, [*heads, *rest[:count]]), console) > console.width:
        count -= 1
    part = _take(table, [*heads, *rest[:count]])
    if _width(part, console) > console.width:  # a column that is wider than the terminal
        part.columns = [replace(column, no_wrap=False) for column in part.columns]
    yield part
    if count < len(rest):
        others = _take(table, [*heads, *rest[count:]])
        others.title = None
        yield from fit_table(others, console, keys)


def _take(table: Table, columns: list[Column]) -> Table:
    """A table of some columns."""
    part = copy(table)
    part.columns = [replace(column, _index=n) for n, column in enumerate(columns)]
    return part


def _width(table: Table, console: Console) -> int:
    """The width of a table whose words are whole, and lines, too, in columns with `no_wrap`."""
    options = console.options.update(width=UNBOUNDED)
    whole = _take(table, table.columns)
    for column in whole.columns:
        cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        column.min_width = max(cell.maximum if column.no_wrap else cell.minimum for cell in cells)
    return Measurement.get(console, options, whole).minimum


# names of users are no markup and no emoji: `lmdb:x:` stays what it is
out = Console(markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def say(line: str, to: Console = err) -> None:
    """Print a line as it is: brackets are no markup, and a long path is not wrapped."""
    to.print(line, highlight=False, soft_wrap=True)


def show(view: View) -> None:
    """Print a view: its lead, then of each section the paragraphs and tables; a page has the rest."""
    if view.lead:
        say(view.lead, out)
    for section in view.sections:
        blocks = [block for block in section.blocks if not isinstance(block, Plot | Folded | Detail)]
        if blocks and section.title:
            say(f"\n{section.title}", out)
        for block in blocks:
            _show_block(block)


def _show_block(block: Block) -> None:
    match block:
        case str():
            say(block, out)
        case Heading():
            say(f"\n{block.text}", out)
        case TableView():
            _show_view_table(block)
        case Beside():
            for column in block.columns:
                for inner in column:
                    _show_block(inner)


STYLES = {1: "green", -1: "bold red", 0: ""}


def _show_view_table(view: TableView) -> None:
    table = Table(title=view.title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [n for n, name in enumerate(view.columns) if name not in view.details]
    for n in shown:
        name = view.columns[n]
        prose = name in view.prose
        left = n == 0 or prose or name in view.left
        header = name if prose else name.replace(" ", "\n")
        table.add_column(header, justify="left" if left else "right", overflow="fold", no_wrap=not prose)
    for row in view.rows:
        table.add_row(*(_text_of(row[n]) for n in shown))
    if _width(table, out) > out.width:
        table.padding = 0  # one that fits then is not cut
    for part in fit_table(table, out, view.keys):
        out.print(part)


def _text_of(cell: Cell) -> Text:
    """A cell as the terminal shows it: a note is dim, a verdict has its colour."""
    match cell:
        case Noted():
            return Text.assemble(cell.text, "  ", (cell.note, "dim")) if cell.note else Text(cell.text)
        case Verdict():
            return Text(cell.text, style=STYLES[(cell.sign > 0) - (cell.sign < 0)])
        case Share():
            return Text(cell.text)
        case _:
            return Text(cell)
