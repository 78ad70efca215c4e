"""A figure of new rows beside that of the run, with the verdict of a threshold; and the population stability index.

PSI = Σ (q − p) ln(q / p) over bins, with shares p then and q now. Below 0.1 counts as stable, above 0.25 as shifted.
Of samples of n and m independent values of one distribution with B bins it is nearly chi² with B − 1 degrees of
freedom, times 1/n + 1/m (Yurdakul, 2018). The mean of that, and two standard deviations, are taken off here.

Letters: N values · B bins.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from corank.core.types import Ints, Longs, Numbers
from corank.features.encoding import FIRST_KNOWN, MISSING
from corank.features.scale import Bucket
from corank.training.checks.findings import Finding, Severity

FigureKind = Literal["columns", "values", "rows", "levels", "labels", "missing", "new_ids", "psi"]
"""The key of `drift` whose threshold holds for a figure; `values`, which no packing takes, have none."""
Verdict = Literal["ok", "broken", "few", "off"]
"""`few`: too few rows to judge by, or none of the same hours; `off`: not judged."""


SHARES = ("levels", "labels", "missing", "new_ids")
"""Figures that are shares."""
FACTORS = ("rows", "levels", "labels")
"""Figures whose threshold is a factor."""


@dataclass(frozen=True)
class DriftFigure:
    """One figure of new rows, and of the run."""

    kind: FigureKind
    name: str
    """The feature, label, level or column; `log` for the number of rows."""
    reference: float | str | None
    """Of the run; None if there is none."""
    now: float | str | None
    """Of the new rows."""
    threshold: float | None
    verdict: Verdict
    finding: Finding | None = None
    """What differs, and what to do: an error if it is broken."""

    def document(self) -> dict[str, Any]:
        """As plain values, without the finding."""
        return {name: value for name, value in vars(self).items() if name != "finding"}

    @property
    def cells(self) -> list[str]:
        """Kind, name, both values, threshold and verdict, for people."""
        limit = "-" if self.threshold is None else f"{self.threshold:g}"
        if self.threshold is not None and self.kind in (*FACTORS, *SHARES):
            limit = f"x {limit}" if self.kind in FACTORS else f"+ {self.threshold:.0%}"
        return [self.kind, self.name, self._text(self.reference), self._text(self.now), limit, self.verdict]

    def _text(self, value: float | str | None) -> str:
        if value is None or isinstance(value, str):
            return value or "-"
        if self.kind in SHARES:
            return f"{value:.2%}"
        return f"{value:,.0f}" if self.kind == "rows" else f"{value:.3f}"

    def found(self, what: str) -> Self:
        """The figure with its finding: an error if it is broken, else a warning.

        Args:
            what: differs, and what to do.
        """
        before, now = self._text(self.reference), self._text(self.now)
        figure = f"{self.kind.upper()} {now}" if self.kind == "psi" else f"was {before}, now {now}"
        rule = "" if self.threshold is None else f" (drift.{self.kind}: {self.threshold:g})"
        severity: Severity = "error" if self.verdict == "broken" else "warning"
        return replace(self, finding=Finding(severity, self.name, f"{what}{rule}", figure))

    @classmethod
    def judged(
        cls,
        kind: FigureKind,
        name: str,
        figures: tuple[float | None, float | None],
        threshold: float | None,
        excess: float,
        enough: bool,
        what: str,
    ) -> Self:
        """A figure with its verdict.

        Args:
            kind: see above.
            name: see above.
            figures: of the run, and of the new rows.
            threshold: None if it is switched off.
            excess: what may be as large as the threshold.
            enough: whether there are rows enough to judge by.
            what: what differs if the threshold is broken, and what to do.
        """
        if threshold is None:
            return cls(kind, name, *figures, threshold, "off")
        if not enough or excess <= threshold:
            return cls(kind, name, *figures, threshold, "ok" if enough else "few")
        return cls(kind, name, *figures, threshold, "broken").found(what)


def times(one: float, other: float) -> float:
    """How many times the smaller of two figures the larger one is; 1 if both are 0."""
    small, large = sorted((one, other))
    return large / small if small else math.inf if large else 1.0


FREQUENT = 20
"""Codes with a bin of their own; the others share one, with unknown values among them: training knows its own."""
PARTS = 10
"""Bins of numbers."""
SIGMAS = 2
"""Standard deviations that chance is granted."""


def count_codes(before: Ints, now: Ints) -> tuple[Longs, Longs]:
    """Count codes of the reference and of new rows by bin: missing, all others, unknown ones among them, the frequent.

    Returns both counts: (B,).
    """
    counts = np.bincount(before, minlength=FIRST_KNOWN)
    counts[:FIRST_KNOWN] = 0
    order = np.argsort(-counts, kind="stable")[:FREQUENT]
    frequent = np.sort(order[counts[order] > 0]).astype(np.int32)

    def count(codes: Ints) -> Longs:
        at = np.searchsorted(frequent, codes)
        known = at < len(frequent)
        known[known] = frequent[at[known]] == codes[known]
        bins = np.where(known, at + 2, np.where(codes == MISSING, 0, 1))
        return np.bincount(bins, minlength=len(frequent) + 2).astype(np.int64)

    return count(before), count(now)


def count_numbers(before: Numbers, now: Numbers, null: float) -> tuple[Longs, Longs]:
    """Count numbers of the reference and of new rows by bin: missing, and parts of equal mass of the reference.

    Args:
        before: of the reference.
        now: of the new rows.
        null: the encoding of missing ones.

    Returns both counts: (B,).
    """
    edges = Bucket.fit(before[before != null], PARTS).edges

    def count(numbers: Numbers) -> Longs:
        bins = np.where(numbers == null, 0, np.searchsorted(edges, numbers, side="right") + 1)
        return np.bincount(bins, minlength=len(edges) + 2).astype(np.int64)

    return count(before), count(now)


def stability_index(before: Longs, now: Longs, units_before: int, units_now: int) -> float:
    """Compute the PSI of counts by bin, less what chance may give; 0 at least.

    Args:
        before: counts of the reference: (B,).
        now: counts of the new rows: (B,).
        units_before: independent values among the reference, such as requests; at least 1.
        units_now: among the new rows; at least 1.
    """
    filled = (before > 0) | (now > 0)
    if not before.sum() or not now.sum():
        return 0.0
    # an empty bin counts as half a unit, so that its logarithm is finite
    p = np.maximum(before[filled] / before.sum(), 0.5 / units_before)
    q = np.maximum(now[filled] / now.sum(), 0.5 / units_now)
    free = np.count_nonzero(filled) - 1
    chance = (free + SIGMAS * np.sqrt(2 * free)) * (1 / units_before + 1 / units_now)
    return float(max(0.0, np.sum((q - p) * np.log(q / p)) - chance))


def chance_of_shares(before: float, now: float, units_before: int, units_now: int) -> float:
    """How far two shares may be apart by chance: two standard errors of their difference.

    Args:
        before: of the reference.
        now: of the new rows.
        units_before: independent values among the reference; at least 1.
        units_now: among the new rows; at least 1.
    """
    share = (before * units_before + now * units_now) / (units_before + units_now)
    return float(SIGMAS * np.sqrt(share * (1 - share) * (1 / units_before + 1 / units_now)))
