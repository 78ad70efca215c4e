"""Tables and plots as pivots of rows of figures: which column goes down, which across, and what a cell shows."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corank.core.formatting import format_metric
from corank.core.lazy import lazy
from corank.core.view import Cell, Plot, Table, bounded
from corank.evaluation.rows import Row

if TYPE_CHECKING:
    from corank.analysis import plots
    from corank.analysis.plots import Panels
else:
    plots = lazy("corank.analysis.plots")

BETTER = {"higher": "higher", "lower": "lower", "one": "near 1"}
"""Better values of a metric, as tables name them."""


Beside = Mapping[str, Callable[[Row], Cell]]
"""Columns by name: what they show of the first row of a line."""


def value_cell(row: Row, signed: bool = False) -> Cell:
    """A value with its interval."""
    return bounded(row["value"], (row["low"], row["high"]), signed)


def difference_cell(row: Row) -> Cell:
    """A difference with its sign and interval."""
    return bounded(row["difference"], (row["low"], row["high"]), signed=True)


@dataclass(frozen=True)
class Pivot:
    """A table of rows of figures.

    Example:
        Pivot("metric", "stage", beside={"better is": lambda row: BETTER[row["better"]]}).table(rows)
    """

    down: str | Callable[[Row], str]
    """A column, or what it is made of: a line each."""
    across: str | Callable[[Row], str] | None = None
    """Another: a column each; None if lines have only what is beside."""
    cell: Callable[[Row], Cell] = value_cell
    beside: Beside = field(default_factory=dict)
    """Further columns, behind those across."""
    about: Beside = field(default_factory=dict)
    """Further columns, before those across."""

    def table(self, rows: Iterable[Row], title: str = "", heading: str = "", **settings: Any) -> Table:
        """The table of rows; `heading` is above the names of lines, and further settings are those of `Table`."""
        lines = group_by(rows, self.down)
        across = (
            [*group_by((row for line in lines.values() for row in line), self.across)] if self.across else []
        )
        cells: list[Sequence[Cell]] = []
        for name, line in lines.items():
            of = {_of(row, self.across): self.cell(row) for row in line} if self.across else {}
            about, beside = ([show(line[0]) for show in of.values()] for of in (self.about, self.beside))
            cells.append([name, *about, *(of.get(column, "–") for column in across), *beside])
        return Table([heading, *self.about, *across, *self.beside], cells, title, **settings)


def group_by(rows: Iterable[Row], column: str | Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by the values of a column, in the order in which they come."""
    grouped = defaultdict[str, list[Row]](list)
    for row in rows:
        grouped[_of(row, column)].append(row)
    return dict(grouped)


def _of(row: Row, column: str | Callable[[Row], str]) -> str:
    return str(row[column]) if isinstance(column, str) else column(row)


def draw_values(
    rows: Iterable[Row],
    panel: str | Callable[[Row], str],
    line: str | Callable[[Row], str],
    caption: str,
    from_zero: bool = False,
) -> Plot:
    """Draw values, of which there is at least one, with their intervals: panels, and lines in each.

    Only lines that all panels have are drawn.
    """
    drawn = group_by((row for row in rows if row["value"] is not None), panel)
    panels: Panels = {
        name: {_of(row, line): (row["value"], row["low"], row["high"]) for row in of}
        for name, of in drawn.items()
    }
    common = [name for name in next(iter(panels.values())) if all(name in of for of in panels.values())]
    shown = {panel: {name: of[name] for name in common} for panel, of in panels.items()}
    return Plot(
        lambda figure: plots.plot_values(figure, shown, from_zero),
        caption,
        1.2 + 0.28 * len(common),
    )


def format_count(row: Row) -> str:
    """How many rows, requests or users count."""
    return f"{row['n']:,}"


def format_random(row: Row) -> str:
    """The value of a random order, if the metric is of one."""
    return "" if row["random"] is None else format_metric(row["random"])
