"""The summary of the pages that were run: how many blocks ran, and which did not, and why."""

import json
from typing import Any

import pytest

RECORD = "documented"
"""The property of a test's report that holds the outcome of its page."""


def print_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line a page, and a line a block that did not run; the reports come from the workers, too."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    records = (
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == RECORD
    )
    pages = {outcome["page"]: outcome for outcome in map(json.loads, records)}
    if not pages:
        return
    terminalreporter.section("blocks of the documentation")
    for name in sorted(pages):
        terminalreporter.line(_line(name, pages[name]))
    missed = sorted(line for outcome in pages.values() for line in outcome["not_run"])
    total = {name: sum(outcome[name] for outcome in pages.values()) for name in ("ran", "same", "failed")}
    terminalreporter.line(_line(f"{len(pages)} pages", total | {"not_run": missed}))
    for line in missed:
        terminalreporter.line(f"not run: {line}")


def _line(name: str, counts: dict[str, Any]) -> str:
    same = f", {counts['same']} as on the English page" if counts["same"] else ""
    return f"{name}: {counts['ran']} ran, {counts['failed']} failed, {len(counts['not_run'])} not run{same}"
