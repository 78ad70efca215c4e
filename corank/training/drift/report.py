"""The figures of new rows next to those of a run, and what became of its vocabularies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corank.core.time import format_time
from corank.training.checks.findings import Finding, order_findings
from corank.training.drift.figure import DriftFigure


@dataclass(frozen=True, repr=False)
class DriftReport:
    """The figures of new rows with those of a run, each with a threshold and a verdict."""

    name: str
    """Of the config."""
    run: str
    """The folder of the run that they are compared with."""
    begin: int
    """When the new rows begin, ms UTC: no earlier than the run's training ended."""
    end: int | None
    """When the new rows end; None if columns differ, or values cannot be packed."""
    figures: Sequence[DriftFigure]

    @property
    def broken(self) -> list[DriftFigure]:
        """The figures whose thresholds are broken."""
        return [figure for figure in self.figures if figure.verdict == "broken"]

    @property
    def findings(self) -> list[Finding]:
        """What differs and what to do: errors, for which the rows are refused, then columns that may differ."""
        return order_findings(figure.finding for figure in self.figures if figure.finding is not None)

    @property
    def refusals(self) -> list[str]:
        """Why the rows are refused, a line each; none if accepted."""
        return [str(finding) for finding in self.findings if finding.severity == "error"]

    @property
    def accepted(self) -> bool:
        """Whether no threshold is broken."""
        return not self.broken

    @property
    def drift(self) -> dict[str, float]:
        """The PSI of each feature that is compared; of histories that of their lengths."""
        return {f.name: f.now for f in self.figures if f.kind == "psi" and isinstance(f.now, float)}

    def document(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "name": self.name,
            "run": self.run,
            "begin": format_time(self.begin),
            "end": None if self.end is None else format_time(self.end),
            "accepted": self.accepted,
            "findings": [finding.document() for finding in self.findings],
            "figures": [figure.document() for figure in self.figures],
        }

    def to_json(self) -> str:
        """The report as JSON text, as `corank check --against --json` prints it."""
        return json.dumps(self.document(), indent=1, allow_nan=False)
