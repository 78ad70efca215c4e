"""The result of `check`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from corank.api.results.document_result import show_tables
from corank.core.extras import name_missing_extra
from corank.training.check import CheckSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class CheckResult(CheckSummary):
    """What a config would train on: features, rows, candidates by loss, and advice.

    Example:
        >>> check = corank.check("shop/config.yaml")
        >>> check.rows["log"], check.tables["labels"].columns[:3]
        (36000, ['split', 'label', 'exposed'])
    """

    @classmethod
    def of(cls, summary: CheckSummary) -> Self:
        """The same facts, with tables and a notebook's view."""
        return cls(**{field.name: getattr(summary, field.name) for field in fields(CheckSummary)})

    @property
    def headline(self) -> str:
        """The config's name, the rows of its tables, and the candidates of each split."""
        tables = [f"{name} {rows:,} rows" for name, rows in self.rows.items()]
        splits = [f"{name} {candidates:,} candidates" for name, candidates in self.splits.items()]
        return f"{self.config.name}: {', '.join([*tables, *splits])}"

    @property
    def advice(self) -> list[str]:
        """Advice on data that are hard to learn from, a line each; what training would refuse or warn of first."""
        data_check = self.data_check
        return [*data_check.faults, *data_check.warnings, *self.profile.advice]

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`features`, which tower each enters; `samples` and `targets`, what each loss learns from; `labels`;
        `requests`, by size; `known`, what training knows of the other splits."""
        rows: Mapping[str, Sequence[Mapping[str, Any]]] = {
            "features": self.features,
            "samples": self.samples,
            "labels": self.labels,
            "targets": self.targets,
            "requests": self.profile.request_rows,
            "known": self.profile.feature_rows,
        }
        return {name: pl.DataFrame(list(records)) for name, records in rows.items()}

    def plot(self) -> "Figure":
        """Draw how many requests of each split have how many candidates, and how many positives. Returns a figure.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """
        with name_missing_extra("plot()"):
            from corank.api.results.figures import draw_bars

        panels: dict[str, dict[str, dict[str, int]]] = {}
        for row in self.profile.request_rows:
            ranges = panels.setdefault(f"requests by {row['of']}", {})
            ranges[str(row["number"])] = {split: int(row[split]) for split in self.splits}
        return draw_bars(panels)

    def to_json(self) -> str:
        """All of it as JSON text, as `corank check --json` prints it."""
        return json.dumps(self.document(), indent=1, allow_nan=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.advice)
        return f"{show_tables(self.headline, self.tables)}\n<ul>{lines}</ul>"
