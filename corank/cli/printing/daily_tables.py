"""The history of a daily funnel, as `corank daily` prints it."""

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say, show_table
from corank.core.formatting import format_metric

if TYPE_CHECKING:
    from corank.continual.daily_result import DailyResult
    from corank.continual.history import PeriodRecord

NEWEST = 14
"""Periods that are printed, at most; the page and `--json` have all."""


def show_daily(result: "DailyResult") -> None:
    """Print the decisions on the newest periods, with the figures of the gate."""
    if not result.records:
        say("no period is due", out)
        return
    names = [condition.figure for condition in result.gate]
    table = Table(title="candidate against live", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("period", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    for column in ("candidates", "seconds", *dict.fromkeys(name.replace(".", "\n") for name in names)):
        table.add_column(column, justify="right", no_wrap=True)
    for record in result.records[-NEWEST:]:
        pairs = [_pair(record, name) for name in dict.fromkeys(names)]
        rows = f"{sum(record.rows.values()):,}" if record.rows else ""
        seconds = f"{sum(record.seconds.values()):.0f}"
        table.add_row(record.period, record.decision, rows, seconds, *pairs)
    show_table(table)
    for reason in () if result.refused is None else result.refused.reasons:
        say(f"{result.records[-1].period}: {escape(reason)}", out)
    live = result.live
    say("no period is live" if live is None else f"live: {live.period}, model {live.model}", out)
    say(f"page: {result.page}", out)


def _pair(record: "PeriodRecord", name: str) -> str:
    """A figure of the candidate, and below it the live run's on the same rows."""
    values = (record.candidate.get(name), record.reference.get(name))
    return "\n".join("" if value is None else format_metric(value) for value in values)
