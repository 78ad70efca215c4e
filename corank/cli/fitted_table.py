"""A table that is wider than the terminal, cut into several of some columns each."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

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
