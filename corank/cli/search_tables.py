"""Output of the searches: what was compared, what was chosen, and its test."""

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import out, say
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
    for arm, found in document["arms"].items():
        value = found["figures"].get(metric)
        table.add_row(
            escape(arm),
            format_metric(value["value"]) if value else "diverged",
            _difference(found["to_base"].get(metric)),
            _difference(found["to_best"].get(metric)),
            f"{found['seconds']:.1f}",
        )
    out.print(table)
    for line in [document["verdict"], *document["notes"]]:
        say(line, out)
    show_chosen(document)


def show_chosen(document: dict[str, Any]) -> None:
    """Print the test figures of the chosen config, and where it lies."""
    if document["test"] is not None:
        table = Table(title="test split, of the chosen config alone", title_justify="left", box=box.SIMPLE)
        for column in ("figure", "value", "95 %"):
            table.add_column(column, justify="left" if column == "figure" else "right")
        for name, figure in document["test"].items():
            bounds = None if figure["low"] is None else [figure["low"], figure["high"]]
            table.add_row(name, format_metric(figure["value"]), format_interval(bounds))
        out.print(table)
    say(f"config: {document['config_file']}  run: {document['run']}", out)


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    value = f"{found['value']:+.4f}"
    return value if found["low"] is None else f"{value} [{found['low']:+.4f}, {found['high']:+.4f}]"
