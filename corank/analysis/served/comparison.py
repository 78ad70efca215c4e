"""Versions that served compared by their log: the document of `corank compare-served`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corank.analysis.served.canary import compare_canary
from corank.analysis.served.sequential import EARLY, NONE, SequentialTest
from corank.analysis.served.served_rows import Exposures, ServedLog
from corank.analysis.served.shadow import compare_shadow
from corank.core.errors import DataError
from corank.serving.log.log_format import SERVED

INVALID = "not comparable"
"""The verdict if users were not assigned as the canary's share says: those of a and b may differ from the start."""


@dataclass(frozen=True)
class ServedChoice:
    """The compared part of a log."""

    exposures: Sequence[Path] = ()
    """Tables of what was shown."""
    labels: Sequence[str] = ()
    """Their columns of labels; detected if empty."""
    since: int | None = None
    """First moment that counts, ms UTC; None for all."""
    until: int | None = None
    """First moment that counts no more, ms UTC; None for all."""
    top: int = 10
    """Items at the top of an answer by which a shadow is compared."""
    share: float | None = None
    """Of users that the canary was to have; None if it is not tested."""


def compare_versions(source: Path, choice: ServedChoice, test: SequentialTest) -> dict[str, Any]:
    """Compare the last canary and the last shadow of a log with the version that was live meanwhile.

    Args:
        source: the folder that `corank serve --log` wrote.
        choice: the compared part of it.
        test: how differences are tested over time.

    Returns the document of `corank compare-served --json`. Raises DataError.
    """
    log = ServedLog.read(source, choice.since, choice.until)
    if log is None:
        raise DataError(f"{source}: no served requests here; `corank serve --log {source}` writes them")
    exposures = None
    if choice.exposures:
        exposures = Exposures.read(choice.exposures, choice.labels, log.item)
    shadow = ServedLog.read_shadow(source, choice.since, choice.until)
    comparisons: dict[str, dict[str, Any] | None] = {
        "canary": compare_canary(log, exposures, test, choice.share),
        "shadow": None if shadow is None else compare_shadow(log, shadow, exposures, test, choice.top),
    }
    if not any(comparisons.values()):
        raise DataError(
            f"{source}: neither a canary nor a shadow ranked a request of that time; serve with --canary or --shadow"
        )
    for part in comparisons.values():
        if part is not None:
            mismatch = part.get("sample_ratio", {}).get("mismatch", False)
            part["verdict"] = INVALID if mismatch else _conclude(part["sequential"])
    document: dict[str, Any] = {"log": str(source), "alpha": test.alpha, "effect": test.effect}
    if exposures is not None:
        document["exposures"] = _count(log, exposures)
    return document | comparisons


def _count(log: ServedLog, exposures: Exposures) -> dict[str, int]:
    """How many exposures there are, and how many of them are of a request that the log does not have."""
    logged = log.requests().select(SERVED)
    unknown = exposures.rows.select(SERVED).join(logged, on=SERVED, how="anti")
    return {"rows": len(exposures.rows), "unknown": len(unknown)}


def _conclude(sequential: dict[str, dict[str, Any]]) -> str:
    """The verdict of all differences: the worst of those that are shown."""
    verdicts = [result["verdict"] for result in sequential.values()]
    for one in ("worse", "better", NONE):
        if one in verdicts:
            return one
    return EARLY
