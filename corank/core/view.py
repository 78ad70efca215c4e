"""What a result shows, described once: paragraphs, tables and plots. Terminal, page and notebook each draw it.

A view names no library of any of the three, so that it is made where none of them is installed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, Union

from corank.core.formatting import format_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Noted:
    """A cell of a table: a text with a small note, such as an interval."""

    text: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """A cell that says what is good (sign 1), bad (-1), or neither (0)."""

    text: str
    sign: float = 0


@dataclass(frozen=True)
class Share:
    """A cell that a page draws as a part of a funnel: as wide as its share above, and as the next one's below."""

    text: str
    share: float
    """From 0 to 1."""
    below: float


Cell = str | Noted | Verdict | Share


@dataclass(frozen=True)
class Table:
    """Rows of cells under the names of their columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    prose: Collection[str] = ()
    """Columns of sentences: they are aligned left, and lines are broken between words."""
    left: Collection[str] = ()
    """Other columns that are aligned left; the first always is, and all others right."""
    details: Collection[str] = ()
    """Columns that a page shows, and a terminal does not."""
    keys: int = 1
    """First columns that identify a row: a terminal that is too narrow repeats them in each part of the table."""

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, str | int]],
        left: Collection[str] = (),
        keys: int = 1,
        title: str = "",
    ) -> Self:
        """A table of at least one row, whose columns are the keys of the first.

        Example:
            >>> Table.of([{"split": "train", "rows": 1200}]).rows
            [['train', '1,200']]
        """
        cells = [
            [f"{value:,}" if isinstance(value, int) else value for value in row.values()] for row in rows
        ]
        return cls(list(rows[0]), cells, title, left=left, keys=keys)


@dataclass(frozen=True)
class Plot:
    """A figure with its caption, for pages and notebooks."""

    draw: "Callable[[Figure], object]"
    """Draws on an empty figure as wide as a page; what it needs of matplotlib is loaded when it is called."""
    caption: str
    height: float = 3.0
    """Inches."""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Folded:
    """A preformatted text that the reader of a page unfolds, such as a config."""

    summary: str
    text: str


@dataclass(frozen=True)
class Detail:
    """Blocks that a page shows, and a terminal does not."""

    blocks: "Sequence[Block]"


@dataclass(frozen=True)
class Beside:
    """Columns of blocks, next to each other where the window of a page is wide enough."""

    columns: "Sequence[Sequence[Block]]"


Block = Union[str, Table, Plot, Heading, Folded, Detail, Beside]  # noqa: UP007 - a string names its members
"""A text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """Blocks under a title. The title of a section that a terminal shows is a line; "" for none."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class View:
    """All that a result shows."""

    title: str
    lead: str
    """One introductory sentence."""
    sections: Sequence[Section]
    wide: bool = False
    """Whether the page has room for two figures next to each other."""

    def plots(self) -> Iterator[Plot]:
        """Its figures, in their order."""
        for section in self.sections:
            yield from _plots(section.blocks)


def _plots(blocks: Sequence[Block]) -> Iterator[Plot]:
    for block in blocks:
        match block:
            case Plot():
                yield block
            case Detail():
                yield from _plots(block.blocks)
            case Beside():
                for column in block.columns:
                    yield from _plots(column)


def bounded(value: float | None, bounds: Sequence[float | None] | None, signed: bool = False) -> Cell:
    """A cell of a metric with its interval, to four decimals; a difference has a sign.

    Example:
        >>> bounded(0.5, [0.25, 0.75])
        Noted(text='0.5000', note='0.2500 … 0.7500')
    """
    if value is None:
        return "–"
    text = _signed(value) if signed else format_metric(value)
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return text
    low, high = (_signed(bound) if signed else f"{bound:.4f}" for bound in bounds if bound is not None)
    return Noted(text, f"{low} … {high}")


def _signed(value: float) -> str:
    """A difference to four decimals; a smaller one to its first digit, so that none is a rounded 0."""
    return f"{value:+.0e}" if 0 < abs(value) < 0.00005 else f"{value:+.4f}"
