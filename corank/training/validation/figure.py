"""A figure of new rows with that of the run, and the verdict of a threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

FigureKind = Literal["columns", "values", "rows", "levels", "labels", "missing", "new_ids", "psi"]
"""The key of `validation` whose threshold holds for a figure; `values`, which no packing takes, have none."""
Verdict = Literal["ok", "broken", "few", "off"]
"""`few`: too few rows to judge by, or none of the same hours; `off`: not judged."""


@dataclass(frozen=True)
class ValidationFigure:
    """One figure of a validation."""

    kind: FigureKind
    name: str
    """The feature, label, level or column; `log` for the number of rows."""
    reference: float | str | None
    """Of the run; None if there is none."""
    now: float | str | None
    """Of the new rows."""
    threshold: float | None
    verdict: Verdict
    reason: str = ""
    """If broken: what differs, and what to do."""

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def is_within(factor: float, reference: float, now: float) -> bool:
    """Whether a figure is at most `factor` times another, and at least as much less."""
    return reference <= now * factor and now <= reference * factor


def judge(threshold: float | None, holds: Callable[[float], bool], enough: bool = True) -> Verdict:
    """Give the verdict of a threshold.

    Args:
        threshold: null if it is switched off.
        holds: whether the figure keeps it.
        enough: whether there are rows enough to judge by.
    """
    if threshold is None:
        return "off"
    if not enough:
        return "few"
    return "ok" if holds(threshold) else "broken"
