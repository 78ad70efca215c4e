"""Evaluations by group, and comparisons of runs, as the commands print them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say, show_table
from corank.core.formatting import format_metric


def show_groups(document: dict[str, Any]) -> None:
    """Print the metrics of each group: a table a stage and label."""
    from corank.analysis.grouped import shown_metrics

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


def show_comparison(document: dict[str, Any]) -> None:
    """Print the metrics of both runs, their differences, and what they say."""
    from corank.analysis.comparison_page import compared_parts, describe_lost, describe_rows

    say(f"a: {document['a']}", out)
    say(f"b: {document['b']}", out)
    say(f"{describe_rows(document)}; a minus b, 95 % intervals over users", out)
    if "on" in document:
        say(f"both judged on {document['on']}", out)
        if lost := describe_lost(document):
            say(lost, out)
    if any(document["margins"].values()):
        say("margins: " + ", ".join(f"{name} {value:g}" for name, value in document["margins"].items()), out)
    for part in compared_parts(document):
        _show_metrics(part.title, part.metrics)


def _show_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print a table of metrics and their differences."""
    from corank.analysis.comparison_page import format_bounds

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("metric", "a", "b", "a - b", "95 %", "a is"):
        left = column in ("metric", "a is")
        table.add_column(
            column, justify="left" if left else "right", no_wrap=column != "metric", overflow="fold"
        )
    for name, one in metrics.items():
        values = format_metric(one["a"]), format_metric(one["b"]), f"{one['difference']:+.4f}"
        verdict = one["verdict"] if one["verdict"] in ("better", "worse") else "none shown"
        table.add_row(name, *values, format_bounds(one), verdict)
    show_table(table)


def show_served(document: dict[str, Any]) -> None:
    """Print how a canary and a shadow compare with the live version."""
    from corank.analysis.comparison_page import compared_parts
    from corank.analysis.served.page import (
        agreement_rows,
        describe_exposures,
        describe_part,
        format_sequence,
    )

    say(describe_exposures(document), out)
    for name in ("canary", "shadow"):
        if (part := document[name]) is None:
            continue
        for line in (f"the {name}: {part['verdict']}", *describe_part(part)):
            say(line, out)
        for figure, value in agreement_rows(part):
            say(f"{figure}: {value}", out)
        if part["sequential"]:
            table = Table(
                title=f"{name}, intervals that hold at every look", title_justify="left", box=box.SIMPLE_HEAD
            )
            for column in ("figure", "a", "b", "interval of a - b", "a is"):
                table.add_column(column, overflow="fold", no_wrap=column != "a is")
            for figure, delta in part["sequential"].items():
                values = format_metric(delta.get("a")), format_metric(delta.get("b"))
                table.add_row(figure, *values, format_sequence(delta, "low", "high"), delta["verdict"])
            show_table(table)
        for compared in compared_parts({"stages": part["stages"], "cuts": {}, "cascade": {}}):
            _show_metrics(f"{name}: {compared.title}", compared.metrics)
