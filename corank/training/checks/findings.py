"""What `corank check` and `train` find in a config and its data: errors, warnings and advice, of which the first count.

A finding is made by a function; `judgements` lists them all, and says in which order they count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from corank.core.errors import DataError
from corank.core.reports import Report

Severity = Literal["error", "warning", "advice"]
SEVERITIES: Sequence[Severity] = ("error", "warning", "advice")
"""From what stops a training to what makes one hard."""
NAMED = 4
"""Columns that the line of a finding names, of those that it is of."""
FIRST = 10
"""Findings that are printed unless all are asked for."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a config or its data, or that could be better."""

    severity: Severity
    """An `error` stops the training."""
    where: str
    """The key of the config, the column, the loss or the label that it is of."""
    what: str
    """A sentence, without the full stop."""
    figure: str = ""
    """What was measured there, if the sentence does not say it."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Each place → its figure, if `where` names several."""

    def __str__(self) -> str:
        return f"{_describe(self.where, self.figure)}: {self.what}"

    @property
    def line(self) -> str:
        """Severity, place and sentence."""
        return f"{self.severity}: {self}"

    @property
    def details(self) -> list[str]:
        """The line, and all places, if it leaves some out."""
        places = ", ".join(_describe(*place) for place in self.places.items())
        return [self.line, f"  {places}"] if len(self.places) > NAMED else [self.line]

    def document(self) -> dict[str, Any]:
        """The finding as plain values."""
        places = self.places or {self.where: self.figure}
        return {
            "severity": self.severity,
            "where": list(places),
            "figures": list(places.values()),
            "finding": str(self),
        }


def name_some(names: Sequence[str]) -> str:
    """Name the first of several.

    Example:
        >>> name_some(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def order_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Make one of those that say the same of several columns, and sort by severity what is in order otherwise."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.severity, finding.what), []).append(finding)
    return sorted(map(_join, alike.values()), key=lambda finding: SEVERITIES.index(finding.severity))


def _join(findings: Sequence[Finding]) -> Finding:
    """One finding of the places of several."""
    first, *others = findings
    if not others:
        return first
    places = {finding.where: finding.figure for finding in findings}
    where = name_some([_describe(*place) for place in places.items()])
    return Finding(first.severity, where, first.what, places=places)


def _describe(where: str, figure: str) -> str:
    return f"{where} ({figure})" if figure else where


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raise DataError if there are errors: a training could not learn what the config asks for."""
    if errors := [str(finding) for finding in findings if finding.severity == "error"]:
        raise DataError("\n".join(errors))


def describe_findings(findings: Sequence[Finding], complete: bool = False) -> list[str]:
    """The first findings as text, a paragraph each, and how many more there are; or all, with all their places."""
    shown = findings if complete else findings[:FIRST]
    said = ["\n".join(finding.details if complete else [finding.line]) for finding in shown]
    left = len(findings) - len(shown)
    return [*said, f"{left:,} more: `corank check CONFIG --all`"] if left else said


def report_findings(findings: Iterable[Finding], say: Report) -> None:
    """Report the first findings, a line each."""
    for line in describe_findings([*findings]):
        say(line)
