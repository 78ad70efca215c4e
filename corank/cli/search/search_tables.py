"""Output of the searches: what was compared, the chosen config, and its test."""

import json
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say, show_table
from corank.core.formatting import format_interval, format_metric


def show_sweep(document: dict[str, Any]) -> None:
    """Print the arms, the best first, with their differences to the config as written and to the best."""
    metric = document["metric"]
    say(
        f"{document['name']}: {document['trials']} trials, {document['seeds']} seeds an arm, validation split of "
        f"{document['requests']:,} requests",
        out,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for column in (metric, "less as written", "less the best", "seconds"):
        table.add_column(column, justify="right")
    for arm, facts in document["arms"].items():
        value = facts["figures"].get(metric)
        table.add_row(
            escape("\n".join(f"{key}={json.dumps(value)}" for key, value in facts["changes"].items()) or arm),
            format_metric(value["value"]) if value else "diverged",
            _difference(facts["to_base"].get(metric)),
            _difference(facts["to_best"].get(metric)),
            f"{facts['seconds']:.1f}",
        )
    show_table(table)
    for line in [document["verdict"], *document["notes"]]:
        say(line, out)
    show_chosen(document)


def show_chosen(document: dict[str, Any]) -> None:
    """Print the test figures of the chosen config, and its location."""
    if document["test"] is not None:
        table = Table(title="test split, of the chosen config alone", title_justify="left", box=box.SIMPLE)
        for column in ("figure", "value", "95 %"):
            table.add_column(column, justify="left" if column == "figure" else "right")
        for name, figure in document["test"].items():
            bounds = None if figure["low"] is None else [figure["low"], figure["high"]]
            table.add_row(name, format_metric(figure["value"]), format_interval(bounds))
        show_table(table)
    say(f"config: {document['config_file']}  run: {document['run']}", out)


def _difference(delta: dict[str, Any] | None) -> str:
    if delta is None:
        return "-"
    value = f"{delta['value']:+.4f}"
    return value if delta["low"] is None else f"{value} [{delta['low']:+.4f}, {delta['high']:+.4f}]"


SHOWN_TRIALS = 10


def show_tuning(document: dict[str, Any]) -> None:
    """Print the best trials, what mattered, and the chosen one."""
    metric, trials = document["metric"], document["trials"]
    complete = [trial for trial in trials if trial["value"] is not None]
    say(
        f"{document['name']}: {len(trials)} trials, {len(complete)} of them completed, validation "
        f"split of {document['requests']:,} requests",
        out,
    )
    best = sorted(complete, key=lambda trial: trial["value"], reverse=document["better"] != "lower")
    table = Table(
        title="the best trials; 1 is the config as written", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("trial", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("settings", overflow="fold")
    for trial in best[:SHOWN_TRIALS]:
        values = (trial["values"] or {}).items()
        said = "  ".join(f"{key}={_short(value)}" for key, value in values) or "as written"
        table.add_row(str(trial["number"]), format_metric(trial["value"]), escape(said))
    show_table(table)
    if document["importance"]:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in document["importance"].items())
        say(f"importance: {shares}", out)
    if document["budget"] is not None:
        _show_frontier(document)
    say(document["verdict"], out)
    show_chosen(document)


def _show_frontier(document: dict[str, Any]) -> None:
    """Print the funnels that no faster one equals, with the measured latency of each."""
    budget, trials = document["budget"], {trial["number"]: trial for trial in document["trials"]}
    title = f"which funnel to run in how many µs ({budget['machine']}); budget {budget['us']:g}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("µs", "95 %", document["metric"], "trial", "keep"):
        table.add_column(column, justify="right")
    table.add_column("settings", overflow="fold")
    for point in budget["frontier"]:
        us, values = point["us"], (trials[point["trial"]]["values"] or {}).items()
        said = "  ".join(f"{key}={_short(value)}" for key, value in values) or "as written"
        interval = f"{us['low']:,.0f} … {us['high']:,.0f}"
        fits = "" if us["high"] <= budget["us"] else " over"
        cells = [f"{us['median']:,.0f}", interval + fits, format_metric(point["value"])]
        table.add_row(*cells, str(point["trial"]), str(point["quota"]), escape(said))
    show_table(table)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
