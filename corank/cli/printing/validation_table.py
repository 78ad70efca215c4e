"""New rows compared with those of a run, as `corank check --against` prints them."""

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from corank.cli.console import say, show_table

if TYPE_CHECKING:
    from corank.api.results.validation_result import ValidationResult

STYLES = {"broken": "bold red", "few": "dim", "off": "dim"}


def show_validation(found: "ValidationResult") -> None:
    """Print each figure of the run and of the new rows, its threshold and its verdict; then how vocabularies grow."""
    table = Table(title=found.headline, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("figure", "of", "reference", "now", "threshold", "verdict"):
        left = column in ("figure", "of", "verdict")
        text = column in ("reference", "now")  # what a column holds, or why it is not compared
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not text)
    for cells in found.rows:
        style = STYLES.get(cells["verdict"])
        table.add_row(*map(escape, cells.values()), style=style)
    show_table(table, 2)
    if found.vocabularies:
        _show_vocabularies(found)


def _show_vocabularies(result: "ValidationResult") -> None:
    title = "vocabularies: rows now, and after `pack --from`"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("feature", overflow="fold", no_wrap=True)
    for column in ("rows", "admitted", "evicted", "after", "free"):
        table.add_column(column, justify="right")
    for name, vocabulary in result.vocabularies.items():
        counts = vocabulary.document().values()
        table.add_row(escape(name), *("-" if count is None else f"{count:,}" for count in counts))
    show_table(table)


def show_refusal(found: "ValidationResult") -> None:
    """Print on stderr why the rows are refused, and the remedy."""
    for reason in found.reasons:
        say(f"refused: {reason}")
    say("mend the tables; or, if the change is meant, set another threshold under `validation` in the config")
