"""Tables and lines that commands print of groups, comparisons, searches, daily funnels, checks and stores."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import bounded_cells, out, say, show_cells, show_table
from corank.core.formatting import format_metric

if TYPE_CHECKING:
    pass


def show_groups(document: dict[str, Any]) -> None:
    """Print the metrics of each group: a table a stage and label."""
    from corank.analysis.evaluated_run import shown_metrics

    say(
        f"{document['split']} by {document['by']}: {len(document['groups'])} groups, "
        "± half the 95 % interval over users",
        out,
    )
    shown: dict[tuple[str, str], list[str]] = {}
    for stage, label, metric in shown_metrics(document):
        shown.setdefault((stage, label), []).append(metric)
    for (stage, label), metrics in shown.items():
        table = Table(title=f"{stage} · {label}, exposed", title_justify="left", box=box.SIMPLE)
        table.add_column(document["by"], no_wrap=True)
        for column in ("requests", "candidates"):
            table.add_column(column, justify="right")
        for metric in metrics:
            table.add_column(metric.replace("_", "\n"), justify="right", no_wrap=True)
        for group in document["groups"]:
            values = group["stages"][stage]["exposed"][label]
            bounds = group["interval"]["stages"][stage]["exposed"][label]
            cells = [f"{format_metric(values[m])}\n{_half(bounds.get(m))}" for m in metrics]
            table.add_row(escape(group["name"]), f"{group['requests']:,}", f"{group['candidates']:,}", *cells)
        show_table(table)
    if not document["whole_requests"]:
        say("Groups hold parts of requests, so the cascade is not evaluated.", out)


def _half(bounds: Sequence[float] | None) -> str:
    """Half the width of an interval, as text."""
    return "" if bounds is None else f"±{(bounds[1] - bounds[0]) / 2:.4f}"


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
        rows = [(name, *bounded_cells(figure)) for name, figure in document["test"].items()]
        show_cells("test split, of the chosen config alone", ("figure", "value", "95 %"), rows)
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
        table.add_row(str(trial["number"]), format_metric(trial["value"]), _describe_settings(trial))
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
        us, said = point["us"], _describe_settings(trials[point["trial"]])
        interval = f"{us['low']:,.0f} … {us['high']:,.0f}"
        fits = "" if us["high"] <= budget["us"] else " over"
        cells = [f"{us['median']:,.0f}", interval + fits, format_metric(point["value"])]
        table.add_row(*cells, str(point["trial"]), str(point["quota"]), said)
    show_table(table)


def _describe_settings(trial: dict[str, Any]) -> str:
    """The values of a trial, as markup."""
    values = (trial["values"] or {}).items()
    texts = [f"{key}={f'{v:.3g}' if isinstance(v, float) else json.dumps(v)}" for key, v in values]
    return escape("  ".join(texts) or "as written")
