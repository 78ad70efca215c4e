"""Base of results that are a document, the one that the command prints by `--json`."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # which takes long to load

SHOWN_ROWS = 60
"""Rows of a table that a notebook shows, at most."""
OPEN_ROWS = 20
"""Rows of a table that is shown at once; a longer one is folded up, to be opened by a click."""


@dataclass(frozen=True, eq=False, repr=False)
class DocumentResult(Mapping[str, Any], ABC):
    """A document, read like a dict: `result["stages"]`; with tables, JSON and a notebook's view of it."""

    document: dict[str, Any]
    """As the command prints it by `--json`: plain values."""

    @property
    @abstractmethod
    def tables(self) -> dict[str, pl.DataFrame]:
        """The document's figures as frames of polars, by name."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """What the result is about, in one line."""

    def to_json(self) -> str:
        """The document as JSON text, as the command prints it."""
        return json.dumps(self.document, indent=1, allow_nan=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.document)

    def __len__(self) -> int:
        return len(self.document)

    def __eq__(self, other: object) -> bool:
        return self.document == (other.document if isinstance(other, DocumentResult) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        return show_tables(self.headline, self.tables)


@dataclass(frozen=True, eq=False, repr=False)
class PlottedResult(DocumentResult):
    """A result that can be drawn."""

    @abstractmethod
    def plot(self) -> "Figure":
        """Draw the figures that matter most. Returns a figure of matplotlib, which `savefig` writes as SVG or PNG.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """


def show_tables(headline: str, tables: Mapping[str, pl.DataFrame]) -> str:
    """Tables as HTML, for a notebook."""
    parts = [f"<p><b>{escape(headline)}</b></p>"]
    with pl.Config(
        tbl_rows=SHOWN_ROWS,
        tbl_cols=-1,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        float_precision=4,
        fmt_str_lengths=60,
    ):
        for name, table in tables.items():
            shown = " open" if len(table) <= OPEN_ROWS else ""
            rows = re.sub("<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>", table._repr_html_())  # texts unquoted
            parts.append(f"<details{shown}><summary>{escape(name)}</summary>{rows}</details>")
    return "\n".join(parts)


def frame(rows: list[dict[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a frame, of the columns of a schema, even if there are none."""
    return pl.DataFrame(rows, schema=dict(schema))
