"""What `corank daily` returns: the records of all periods, as tables, a figure and JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from corank.api.results.document_result import show_tables
from corank.continual.daily_page import PAGE
from corank.continual.gate import Condition
from corank.continual.history import PeriodRecord, find_live

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class DailyResult:
    """The history of a daily funnel.

    Example:
        >>> gate = "['rank.exposed.click.auc >= live - 0.5']"
        >>> text = f"{{config: config.yaml, first: 2026-03-10, verify: 2, gate: {gate}}}"
        >>> _ = Path("shop/daily.yaml").write_text(text)
        >>> corank.daily("shop/daily.yaml").tables["periods"].columns
        ['period', 'decision', 'reasons', 'model', 'version', 'seconds']
    """

    folder: Path
    """Of the history, its page, and the periods."""
    records: Sequence[PeriodRecord]
    """One a period that is over, in order."""
    gate: Sequence[Condition]
    """What a candidate must meet."""

    @property
    def page(self) -> Path:
        """The page over all periods."""
        return self.folder / PAGE

    @property
    def live(self) -> PeriodRecord | None:
        """The record of the live run."""
        return find_live(self.records)

    @property
    def refused(self) -> PeriodRecord | None:
        """The newest period's record if it was refused."""
        newest = self.records[-1] if self.records else None
        return newest if newest is not None and newest.decision.startswith("refused") else None

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """`periods`: a row a period; `figures`: one a period and figure of live, candidate and reference."""
        periods = [
            {
                "period": record.period,
                "decision": record.decision,
                "reasons": "; ".join(record.reasons),
                "model": record.model,
                "version": record.version,
                "seconds": sum(record.seconds.values()),
            }
            for record in self.records
        ]
        texts = dict.fromkeys(("period", "decision", "reasons", "model", "version"), pl.String)
        figures = [
            {"period": record.period, "of": of, "figure": name, "value": value}
            for record in self.records
            for of in ("live", "candidate", "reference")
            for name, value in getattr(record, of).items()
        ]
        named = dict.fromkeys(("period", "of", "figure"), pl.String)
        return {
            "periods": pl.DataFrame(periods, {**texts, "seconds": pl.Float64}),
            "figures": pl.DataFrame(figures, {**named, "value": pl.Float64}),
        }

    def plot(self) -> "Figure":
        """Draw the gate's figures by period, of candidate and live run. Returns a figure of matplotlib.

        Raises MissingExtraError without matplotlib, which `corank[train]` brings.
        """
        from corank.continual.daily_page import draw_history

        return draw_history(self.records, self.gate)

    def to_json(self) -> str:
        """All records as JSON text, as `corank daily --json` prints them."""
        return json.dumps([record.model_dump() for record in self.records], indent=1, allow_nan=False)

    def _repr_html_(self) -> str:
        return show_tables(f"daily funnel in {self.folder}", {"periods": self.tables["periods"]})
