"""The result of `check` with `against`."""

from dataclasses import dataclass, fields
from html import escape
from typing import Self

import polars as pl

from corank.api.results.document_result import show_tables
from corank.core.time import format_time
from corank.training.validation.figure import ValidationFigure
from corank.training.validation.validation import Validation

SHARES = ("levels", "labels", "missing", "new_ids")
"""Figures that are shares."""
FACTORS = ("rows", "levels", "labels")
"""Figures whose threshold is a factor."""


@dataclass(frozen=True, repr=False)
class ValidationResult(Validation):
    """New rows compared with those of a run: figures with their verdicts, and the reasons why the rows are refused.

    Example:
        >>> changes = ["data.split={train: 2026-03-09..2026-03-10}"]
        >>> validation = corank.check("shop/config.yaml", changes, against="shop/runs/shop")
        >>> validation.accepted, sorted(validation.tables)
        (True, ['figures', 'vocabularies'])
    """

    @classmethod
    def of(cls, found: Validation) -> Self:
        """The same figures, with a table and a notebook's view."""
        return cls(**{field.name: getattr(found, field.name) for field in fields(Validation)})

    @property
    def headline(self) -> str:
        """What was compared, and whether it is accepted."""
        until = "on" if self.end is None else f"to {format_time(self.end)}"
        verdict = (
            "accepted" if self.accepted else f"refused, {len(self.broken)} of {len(self.figures)} figures"
        )
        return f"{self.name}, rows from {format_time(self.begin)} {until}, against {self.run}: {verdict}"

    @property
    def rows(self) -> list[dict[str, str]]:
        """A row a figure, as people read it."""
        return [
            {
                "figure": f.kind,
                "of": f.name,
                "reference": _format(f, f.reference),
                "now": _format(f, f.now),
                "threshold": _threshold(f),
                "verdict": f.verdict,
            }
            for f in self.figures
        ]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`figures`: kind, name, what the run has, what the new rows have, threshold, verdict; `vocabularies`, of
        accepted rows: rows of each now, admitted and evicted by `pack --from`, after it, and free up to `max_rows`."""
        names = ("figure", "of", "reference", "now", "threshold", "verdict")
        figures = pl.DataFrame(self.rows, schema=dict.fromkeys(names, pl.String))
        return {"figures": figures} | ({"vocabularies": self._vocabularies()} if self.vocabularies else {})

    def _vocabularies(self) -> pl.DataFrame:
        rows = [{"feature": name, **vocabulary.document()} for name, vocabulary in self.vocabularies.items()]
        names = ("rows", "admitted", "evicted", "after", "free")
        return pl.DataFrame(rows, schema={"feature": pl.String, **dict.fromkeys(names, pl.Int64)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.reasons)
        return f"{show_tables(self.headline, self.tables)}\n<ul>{lines}</ul>"


def _format(figure: ValidationFigure, value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if figure.kind in SHARES:
        return f"{value:.2%}"
    return f"{value:,.0f}" if figure.kind == "rows" else f"{value:.3f}"


def _threshold(figure: ValidationFigure) -> str:
    if figure.threshold is None:
        return "-"
    if figure.kind in FACTORS:
        return f"x {figure.threshold:g}"
    return f"+ {figure.threshold:.0%}" if figure.kind in SHARES else f"{figure.threshold:g}"
